"""The base itself."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = None


def get_config() -> ConfigDict:
    """The base."""
    return base.get_config()
