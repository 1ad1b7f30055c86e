"""The base that all runs here start from: a small VAE with a Gaussian of optimal variance."""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config(num_steps: int = 400) -> ConfigDict:
    """Returns a run that takes half a minute on a CPU core.

    Args:
      num_steps: training steps; runs whose fault is in the images need only 100.
    """
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
    config.train.diagnose = False  # one diagnosis after training is enough
    return config
