"""demo (to be measured)."""

from configs import default


def get_config():
    config = default.get_config()
    config.model.latent_shape = (16,)
    config.model.widths = (128,)
    config.model.patch_size = 4
    config.model.num_blocks = 1
    return config
