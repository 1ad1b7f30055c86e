"""Priors on a frozen CelebA VAE, for one large GPU; the diffusion for a quarter of an hour.

    python train.py --config=configs/celeba_prior.py --workdir=workdir/celeba_prior

After a colon as in configs/cifar10_prior.py. The faces and their mirror images are encoded once; of
the diffusion alone an image costs some 3 GFLOP, and it sees 20 million (63 epochs of both). Tried
for a few steps on a CPU only, on 40 faces.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config(name: str = "diffusion") -> ConfigDict:
    """As for CIFAR-10, whose VAE has a grid of the same size."""
    config = named_config("cifar10_prior", name)
    config.vae_workdir = "workdir/celeba"
    if name == "diffusion":
        config.train.num_steps = 80_000
    return config
