"""What these runs have in common: a small VAE with a Gaussian of optimal variance, 400 steps."""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config(num_steps: int = 400) -> ConfigDict:
    """Half a minute on a CPU core; runs whose images are at fault need only 100 steps."""
    config = defaults.get_config()
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
    config.train.num_steps = num_steps
    config.train.log_every_steps = max(10, num_steps // 20)
    config.train.eval_every_steps = num_steps
    config.train.checkpoint_every_steps = num_steps
    config.train.keep_checkpoints = 1
    config.train.diagnose = False  # once, at the end, is enough
    return config
