"""A hundred times the learning rate."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "learning_rate_too_high"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.optim.learning_rate *= 100
    return config
