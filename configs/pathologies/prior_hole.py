"""Beta 0.001: codes spread far beyond the prior, whose samples hit none of them."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "prior_hole"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.kl.weight = 0.001
    return config
