"""The diffusion prior on the VAE of configs/celeba_10k.py, for one GPU.

    python train.py --config=configs/celeba_10k_prior.py --workdir=workdir/celeba_10k_gpu

Ends when the validation ELBO, with the prior's bound inside, does not rise any more. Tried for
a few steps on a CPU only.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config(name: str = "diffusion") -> ConfigDict:
    """Half the channels of configs/celeba_prior.py; other priors after a colon as there."""
    config = named_config("celeba_prior", name)
    config.vae_workdir = "workdir/celeba_10k_gpu_vae"
    config.prior.widths = (128, 192) if name == "diffusion" else (96,)
    config.train.num_steps = min(config.train.num_steps, 20_000)
    config.train.eval_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    config.train.patience = 4
    config.train.keep_checkpoints = 4
    return config
