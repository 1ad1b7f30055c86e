"""The likelihood averaged over pixels, the rate summed: beta 784 in disguise."""

from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "likelihood_mis_scaled"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = base.get_config()
    config.likelihood.reduction = "mean"
    return config
