"""A diffusion prior, trained with the VAE.

The doctor must not report a severe finding.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """Returns the base with this prior."""
    config = named_config("pathologies/base")
    config.prior.name = "diffusion"
    return config
