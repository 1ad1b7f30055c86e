"""Priors on a frozen VAE for CelebA, that of configs/celeba.py, for one large GPU.

    python train.py --config=celeba_prior --workdir=workdir/celeba_prior

The default is a diffusion, which should train in a quarter of an hour; other priors follow a colon,
as in configs/cifar10_prior.py. The faces and their mirror images are encoded once, so an image
costs only the diffusion, some 3 GFLOP. It sees 20 million images (63 epochs of both).
There are no results: no GPU was available, and the configuration was only tried for a few steps on
a CPU, on 40 faces.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config(name: str = "diffusion") -> ConfigDict:
    """Returns the prior of that name as for CIFAR-10, whose VAE has a latent grid of this size."""
    config = named_config("cifar10_prior", name)
    config.vae_workdir = "workdir/celeba"
    if name == "diffusion":
        config.train.num_steps = 80_000
    return config
