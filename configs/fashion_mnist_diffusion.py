"""Fashion-MNIST, the diffusion prior of the reference run, on the VAE of configs/fashion_mnist.py.

    python train.py --config=configs/fashion_mnist_diffusion.py --workdir=workdir/fashion_mnist

The same network and objective as `fashion_mnist_prior.py:diffusion_simple`, for fewer steps, and
with another sampler that calls the network as often.
Results: README.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """The rest of the half hour."""
    config = named_config("fashion_mnist_prior", "diffusion_simple")
    config.vae_workdir = "workdir/fashion_mnist_vae"
    config.prior.sampler = "heun"
    config.prior.num_sampling_steps = 20
    config.train.num_steps = 2600
    config.train.eval_every_steps = 2600  # with the diagnosis each is a minute of sampling
    config.train.checkpoint_every_steps = 650
    return config
