from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Stages at 16x16 and 8x8, where CPUs do the most convolution work per second."""
    config = default.get_config()
    config.data.name = "celeb_a_10k_crop148_64"
    config.data.validation_size = 500
    config.data.flip = True
    config.model.latent_shape = (8, 8, 8)
    config.model.patch_size = 4
    config.model.widths = (64, 192)
    config.model.num_blocks = (1, 1)
    config.likelihood.name = "gaussian"
    config.likelihood.gaussian_variance = "batch_optimal"
    config.kl.weight = 0.5
    config.kl.warmup_steps = 500
    config.optim.learning_rate = 5e-3
    config.optim.clip_norm = 32000.0
    config.train.batch_size = 50
    config.train.num_steps = 2200
    config.train.eval_every_steps = 550
    config.train.checkpoint_every_steps = 550
    return config
