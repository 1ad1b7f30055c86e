"""A mixture of discretised logistics.

The doctor must not report a severe finding.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """Returns the base with this likelihood."""
    config = named_config("pathologies/base")
    config.likelihood.name = "discretized_logistic_mixture"
    config.likelihood.num_mixtures = 3
    return config
