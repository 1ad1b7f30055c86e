"""CIFAR-10, a VAE for CPUs; its prior is configs/cifar10_cpu_prior.py.

    python train.py --config=configs/cifar10_cpu.py --workdir=workdir/cifar10_cpu

A Gaussian with the optimal variance: at such a size it gives better images for fewer nats than the
mixture of logistics of configs/cifar10.py, but no bits/dim. The runs behind that: docs/cifar10.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """One wide stage at 8x8, where CPUs do the most convolution work per second."""
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
