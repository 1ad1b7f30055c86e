"""A diffusion prior, trained with the VAE."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = None


def get_config() -> ConfigDict:
    """The base with that prior."""
    config = named_config("pathologies/base")
    config.prior.name = "diffusion"
    return config
