"""Priors on a frozen CelebA VAE, each sized for half an hour on one 80 GB GPU.

    python train.py --config=configs/celeba_prior.py --workdir=workdir/celeba_prior

Not trained yet.
"""

from ml_collections import ConfigDict

from configs import cifar10_prior


def get_config(name: str = "diffusion") -> ConfigDict:
    """As for CIFAR-10, whose VAE has a grid of the same size."""
    config = cifar10_prior.get_config(name)
    config.vae_workdir = "workdir/celeba"
    config.train.batch_size = 128  # the encoder works on four times as many pixels
    return config
