"""What these runs have in common: a small VAE with a Gaussian of optimal variance, 400 steps."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Half a minute on a CPU core."""
    config = default.get_config()
    config.data.validation_size = 1000
    config.model.latent_shape = (16,)
    config.model.patch_size = 4
    config.model.widths = (32,)
    config.model.num_blocks = (1,)
    config.likelihood.name = "gaussian"
    config.likelihood.gaussian_variance = "batch_optimal"
    config.kl.warmup_steps = 100
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 20
    config.optim.clip_norm = 0.0
    config.optim.ema_decay = 0.99
    config.train.batch_size = 64
    config.train.num_steps = 400
    config.train.log_every_steps = 20
    config.train.eval_every_steps = 400
    config.train.checkpoint_every_steps = 400
    config.train.keep_checkpoints = 1
    config.train.diagnose = False  # once, at the end, is enough
    return config


def get_short_config() -> ConfigDict:
    """A hundred steps, where the fault is in the images."""
    config = get_config()
    config.train.num_steps = 100
    config.train.log_every_steps = 10
    config.train.eval_every_steps = 100
    config.train.checkpoint_every_steps = 100
    return config
