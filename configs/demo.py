"""demo (to be measured)."""

from configs import default


def get_config():
    config = default.get_config()
    config.model.latent_shape = (16,)
    config.model.widths = (32, 128)
    config.model.num_blocks = (0, 1)
    config.optim.learning_rate = 2e-3
    config.kl.warmup_steps = 500
    config.train.batch_size = 100
    config.train.num_steps = 2000
    config.train.eval_every_steps = 500
    config.train.checkpoint_every_steps = 500
    return config
