"""Fashion-MNIST in the field's binary protocol: Bernoulli likelihood, 40 latent dimensions.

Grey values are binarised afresh at each step and the bound is one on log p of binary images, which
makes it comparable with published values (VAE 228.7 nats by importance weighting with K = 5000,
Bauer & Mnih 2019, arXiv:1810.11428).

    python train.py --config=configs/fashion_mnist.py --workdir=workdir/fashion_mnist
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """One wide stage at 7x7: where two CPU cores do the most convolution work per second."""
    config = default.get_config()
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
