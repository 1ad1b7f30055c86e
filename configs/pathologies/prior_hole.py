"""Beta 0.001: hardly anything draws the codes to the prior, whose samples fall between them."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "prior_hole"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.kl.weight = 0.001
    return config
