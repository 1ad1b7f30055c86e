"""A likelihood so broad (sigma 5) that at beta 1, without warm-up, no dimension is worth its rate.

In the linear model a dimension survives where its eigenvalue of the data's covariance exceeds the
variance of the likelihood (Lucas et al. 2019, arXiv:1911.02469). Here the variance is 25, and the
largest eigenvalue is about 20.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "posterior_collapse"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.likelihood.gaussian_variance = "fixed"
    config.likelihood.gaussian_std = 5.0
    config.kl.warmup_steps = 0
    return config
