"""10,000 faces of CelebA, the diffusion prior on the VAE of configs/celeba_10k_cpu.py.

    python train.py --config=configs/celeba_10k_cpu_prior.py --workdir=workdir/celeba_10k

Network and objective as for CIFAR-10, sampled in half as many steps again. Results: README.md,
docs/celeba.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """The rest of the hour of one core, of which the VAE takes some 25 minutes."""
    config = named_config("cifar10_cpu_prior")
    config.vae_workdir = "workdir/celeba_10k_vae"
    config.prior.num_sampling_steps = 30
    config.train.num_steps = 12_000
    config.train.eval_every_steps = 12_000
    config.train.checkpoint_every_steps = 3000
    return config
