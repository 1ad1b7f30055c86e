"""Fashion-MNIST in the field's binary protocol: Bernoulli likelihood, 40 latent dimensions.

Grey values are binarised afresh at each training step and once, by the evaluation seed, for the
test; the bound is one on log p of binary images.

    python train.py --config=configs/fashion_mnist_binary.py --workdir=workdir/fashion_mnist_binary

Result: test ELBO -233.4, importance-weighted bound -230.2 nats (K = 100); some 80 minutes on two
CPU cores. Published with K = 5000: VAE -228.7 (quoted from Bauer & Mnih 2019, arXiv:1810.11428).
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """One wide stage at 7x7: where two CPU cores do the most convolution work per second."""
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
