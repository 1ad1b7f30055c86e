"""The base itself."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """The base."""
    return named_config("pathologies/base")
