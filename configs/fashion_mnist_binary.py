"""Binary Fashion-MNIST with a Bernoulli likelihood and 40 latent dimensions, as in many papers.

    python train.py --config=fashion_mnist_binary --workdir=workdir/fashion_mnist_binary

Grey values are binarised anew in each training step, and once, with the evaluation seed, for the
test; the bound is one on log p of binary images. Result: test ELBO -233.4 nats, importance-weighted
bound -230.2 nats (K = 100), after some 80 minutes on two CPU cores; see
docs/results/fashion_mnist.md. Published with K = 5000: VAE -228.7 (quoted from Bauer & Mnih 2019,
arXiv:1810.11428).
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns a VAE with one wide stage at 7x7, where CPUs compute convolutions fastest."""
    config = defaults.get_config()
    config.model.latent_shape = (40,)
    config.model.patch_size = 4
    config.model.widths = (128,)
    config.model.num_blocks = (1,)
    config.likelihood.name = "bernoulli"
    config.likelihood.binarize = True
    config.optim.learning_rate = 2e-3
    config.train.batch_size = 100
    config.train.num_steps = 26_000
    config.eval.num_iw_images = 0
    return config
