"""Beta 20.

The rate weighs 20 times as much as in the ELBO, so the code loses details and images blur.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "over_regularised_blur"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.kl.weight = 20.0
    return config
