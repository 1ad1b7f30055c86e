"""The diffusion prior on the VAE of configs/celeba_10k_cpu.py.

    python train.py --config=celeba_10k_cpu_prior --workdir=workdir/celeba_10k

Train that VAE first. Network and objective are those of configs/cifar10_cpu_prior.py, and the
sampler takes one and a half times as many steps. Results: README.md and docs/results/celeba.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns a diffusion that trains in what the VAE (some 25 minutes) leaves of a core hour."""
    config = named_config("cifar10_cpu_prior")
    config.vae_workdir = "workdir/celeba_10k_vae"
    config.prior.num_sampling_steps = 30
    config.train.num_steps = 12_000
    config.train.eval_every_steps = 12_000
    config.train.checkpoint_every_steps = 3000
    return config
