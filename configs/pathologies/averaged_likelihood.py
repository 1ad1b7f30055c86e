"""The likelihood averaged over pixels, the rate summed: beta 784 in disguise.

Averaging divides the distortion by its 784 pixels, so the rate weighs 784 times too much.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.likelihood.reduction = "mean"
    return config
