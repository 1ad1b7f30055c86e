"""CIFAR-10, the diffusion prior on the VAE of configs/cifar10_cpu.py.

    python train.py --config=configs/cifar10_cpu_prior.py --workdir=workdir/cifar10_cpu_prior

Network, objective and sampler of Fashion-MNIST's, at the same width: self-attention at 8x8 would
halve the images per second of a CPU core.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """The rest of the hour of one core, of which the VAE takes 20 to 25 minutes."""
    config = named_config("fashion_mnist_diffusion")
    config.vae_workdir = "workdir/cifar10_cpu"
    config.train.batch_size = 50
    config.train.num_steps = 14_000
    config.train.eval_every_steps = 14_000
    config.train.checkpoint_every_steps = 3500
    config.train.keep_checkpoints = 4  # for the curve of quality over time
    return config
