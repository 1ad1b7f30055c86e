"""A hundred times the learning rate.

Updates are far too large in relation to the parameters.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "learning_rate_too_high"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.optim.learning_rate *= 100
    return config
