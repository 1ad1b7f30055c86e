"""A mixture of discretised logistics."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that likelihood."""
    config = named_config("pathologies/base")
    config.likelihood.name = "discretized_logistic_mixture"
    config.likelihood.num_mixtures = 3
    return config
