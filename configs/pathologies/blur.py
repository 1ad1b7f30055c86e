"""Beta 20."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "over_regularised_blur"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = named_config("pathologies/base")
    config.kl.weight = 20.0
    return config
