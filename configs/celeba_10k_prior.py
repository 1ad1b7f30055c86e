"""The diffusion prior on the VAE of configs/celeba_10k.py, for one GPU.

    python train.py --config=celeba_10k_prior --workdir=workdir/celeba_10k_gpu

Train that VAE first. Training ends when the validation ELBO, which contains the bound of the prior,
stops rising. There are no results: no GPU was available, and the configuration was only tried for a
few steps on a CPU.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config(name: str = "diffusion") -> ConfigDict:
    """Returns the prior of that name as in configs/celeba_prior.py, with half the channels."""
    config = named_config("celeba_prior", name)
    config.vae_workdir = "workdir/celeba_10k_gpu_vae"
    config.prior.widths = (128, 192) if name == "diffusion" else (96,)
    config.train.num_steps = min(config.train.num_steps, 20_000)
    config.train.eval_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    config.train.patience = 4
    config.train.keep_checkpoints = 4
    return config
