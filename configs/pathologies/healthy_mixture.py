"""A mixture of discretised logistics."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that likelihood."""
    config = base.get_config()
    config.likelihood.name = "discretized_logistic_mixture"
    config.likelihood.num_mixtures = 3
    return config
