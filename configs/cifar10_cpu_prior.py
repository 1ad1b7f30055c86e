"""The diffusion prior on the VAE of configs/cifar10_cpu.py.

    python train.py --config=cifar10_cpu_prior --workdir=workdir/cifar10_cpu_prior

Train that VAE first. Network, objective, sampler and width are those of the prior for
Fashion-MNIST; self-attention at 8x8 would halve the images per second of a CPU core. Results:
README.md and docs/results/cifar10.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns a diffusion that trains in what the VAE (20 to 25 minutes) leaves of a core hour."""
    config = named_config("fashion_mnist_diffusion")
    config.vae_workdir = "workdir/cifar10_cpu"
    config.train.batch_size = 50
    config.train.num_steps = 14_000
    config.train.eval_every_steps = 14_000
    config.train.checkpoint_every_steps = 3500
    config.train.keep_checkpoints = 4  # for the curve of quality over time
    return config
