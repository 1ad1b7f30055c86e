"""A hundred times the learning rate."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "learning_rate_too_high"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = named_config("pathologies/base")
    config.optim.learning_rate *= 100
    return config
