"""The base itself.

The other runs change one thing in it. The doctor must not report a severe finding.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """Returns the base unchanged."""
    return named_config("pathologies/base")
