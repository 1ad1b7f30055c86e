"""Beta 0.001: hardly anything draws the codes to the prior, whose samples fall between them."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "prior_hole"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.kl.weight = 0.001
    return config
