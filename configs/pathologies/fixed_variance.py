"""A squared error over a variance of 1, where the error is 0.04: beta 26 in disguise."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.likelihood.gaussian_variance = "fixed"
    return config
