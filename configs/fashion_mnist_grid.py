"""A VAE on Fashion-MNIST with a latent grid, on which all priors are compared.

    python train.py --config=fashion_mnist_grid --workdir=workdir/fashion_mnist_grid

The likelihood is an exact mass function over the 256 grey levels. Result: test ELBO -1790.7 nats,
3.295 bits/dim, after 30 minutes on two CPU cores (seed 0). The comparison is in
docs/results/priors.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns a VAE with one wide stage at 7x7, where CPUs compute convolutions fastest."""
    config = defaults.get_config()
    config.model.latent_shape = (7, 7, 4)
    config.model.patch_size = 4
    config.model.widths = (96,)
    config.model.num_blocks = (1,)
    config.likelihood.num_mixtures = 3
    config.kl.warmup_steps = 500
    config.optim.learning_rate = 5e-3
    config.optim.clip_norm = 2000.0
    config.train.batch_size = 100
    config.train.num_steps = 10_000
    config.train.eval_every_steps = 2000
    config.train.checkpoint_every_steps = 2000
    return config
