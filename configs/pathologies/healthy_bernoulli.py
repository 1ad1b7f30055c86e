"""Binary images with a Bernoulli likelihood."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that likelihood."""
    config = base.get_config()
    config.likelihood.name = "bernoulli"
    config.likelihood.binarize = True
    return config
