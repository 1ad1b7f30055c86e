"""The VAE of the reference run on Fashion-MNIST; configs/fashion_mnist_diffusion.py adds its prior.

    python train.py --config=fashion_mnist --workdir=workdir/fashion_mnist_vae

With a KL weight of 0.5 reconstructions are sharper and the rate is higher; the learned prior has to
make up for that rate. Both trainings together take half an hour of one CPU core. Results: README.md
and docs/results/fashion_mnist.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """Returns configs/fashion_mnist_grid.py with half the KL weight and half the steps."""
    config = named_config("fashion_mnist_grid")
    config.kl.weight = 0.5
    config.train.num_steps = 5000
    config.train.eval_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    return config
