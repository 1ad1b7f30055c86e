"""Binary images with a Bernoulli likelihood."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that likelihood."""
    config = named_config("pathologies/base")
    config.likelihood.name = "bernoulli"
    config.likelihood.binarize = True
    return config
