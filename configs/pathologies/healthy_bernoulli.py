"""Binary images with a Bernoulli likelihood.

The doctor must not report a severe finding.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """Returns the base with this likelihood."""
    config = named_config("pathologies/base")
    config.likelihood.name = "bernoulli"
    config.likelihood.binarize = True
    return config
