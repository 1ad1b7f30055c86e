"""A standard deviation of 0.002, half a grey level: the rate weighs next to nothing.

With too small a variance the distortion weighs too much against the rate.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.likelihood.gaussian_variance = "fixed"
    config.likelihood.gaussian_std = 0.002
    return config
