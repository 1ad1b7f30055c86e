"""The prior of the reference run on Fashion-MNIST: a diffusion on the VAE of fashion_mnist.py.

    python train.py --config=fashion_mnist_diffusion --workdir=workdir/fashion_mnist

Train that VAE first. The network and the objective are those of
`fashion_mnist_prior:diffusion_simple`, with fewer steps, and with a sampler that calls the network
as often in half as many steps. Results: README.md and docs/results/fashion_mnist.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns a diffusion that trains in what the VAE leaves of half an hour on one CPU core."""
    config = named_config("fashion_mnist_prior", "diffusion_simple")
    config.vae_workdir = "workdir/fashion_mnist_vae"
    config.prior.sampler = "heun"
    config.prior.num_sampling_steps = 20
    config.train.num_steps = 2600
    config.train.eval_every_steps = 2600  # each takes a minute of sampling, with its diagnosis
    config.train.checkpoint_every_steps = 650
    return config
