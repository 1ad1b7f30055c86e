"""A thousandth of the learning rate."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "learning_rate_too_low"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = named_config("pathologies/base")
    config.optim.learning_rate /= 1000
    return config
