"""Fashion-MNIST, the VAE of the reference run; its prior is configs/fashion_mnist_diffusion.py.

    python train.py --config=configs/fashion_mnist.py --workdir=workdir/fashion_mnist_vae

KL weight 0.5: sharper reconstructions for a rate that the learned prior is to pay for. Sized for a
CPU core: with the prior half an hour. Results: README.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config


def get_config() -> ConfigDict:
    """The grid of `fashion_mnist_grid`, at half the KL weight and in half the steps."""
    config = named_config("fashion_mnist_grid")
    config.kl.weight = 0.5
    config.train.num_steps = 5000
    config.train.eval_every_steps = 1000
    config.train.checkpoint_every_steps = 1000
    return config
