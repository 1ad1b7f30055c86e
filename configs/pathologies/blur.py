"""Beta 20."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "over_regularised_blur"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.kl.weight = 20.0
    return config
