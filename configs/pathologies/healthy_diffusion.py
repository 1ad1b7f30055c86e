"""A diffusion prior, trained with the VAE."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that prior."""
    config = base.get_config()
    config.prior.name = "diffusion"
    return config
