"""A VAE on CIFAR-10 for CPUs; configs/cifar10_cpu_prior.py adds its prior.

    python train.py --config=cifar10_cpu --workdir=workdir/cifar10_cpu

The likelihood is a Gaussian with the optimal variance. For a model of this size it gives better
images at a lower rate than the mixture of logistics of configs/cifar10.py, but no bits/dim. The
comparison behind this choice, and the results: docs/results/cifar10.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns a VAE with one wide stage at 8x8, where CPUs compute convolutions fastest."""
    config = defaults.get_config()
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.latent_shape = (8, 8, 6)
    config.model.patch_size = 4
    config.model.widths = (128,)
    config.model.num_blocks = (1,)
    config.likelihood.name = "gaussian"
    config.likelihood.gaussian_variance = "batch_optimal"
    config.kl.weight = 0.5
    config.kl.warmup_steps = 500
    config.optim.learning_rate = 5e-3
    config.optim.clip_norm = 8000.0
    config.train.batch_size = 50
    config.train.num_steps = 9000
    config.train.eval_every_steps = 3000
    config.train.checkpoint_every_steps = 3000
    config.train.keep_checkpoints = 3  # for the curve of quality over time
    return config
