"""A likelihood of sigma 2: most of 32 dimensions are not worth their rate."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "posterior_collapse"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.model.latent_shape = (32,)
    config.likelihood.gaussian_variance = "fixed"
    config.likelihood.gaussian_std = 2.0
    config.kl.warmup_steps = 0
    return config
