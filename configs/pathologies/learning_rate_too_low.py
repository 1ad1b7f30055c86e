"""A thousandth of the learning rate.

Updates are far too small in relation to the parameters.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "learning_rate_too_low"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.optim.learning_rate /= 1000
    return config
