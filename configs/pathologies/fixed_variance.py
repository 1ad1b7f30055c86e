"""A squared error over a variance of 1, where the error is 0.04: beta 26 in disguise.

With too large a variance the distortion weighs too little against the rate.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.likelihood.gaussian_variance = "fixed"
    return config
