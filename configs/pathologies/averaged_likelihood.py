"""The likelihood averaged over pixels, the rate summed: beta 784 in disguise."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = named_config("pathologies/base")
    config.likelihood.reduction = "mean"
    return config
