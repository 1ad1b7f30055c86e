"""Priors p(z): linen modules with one interface, `Prior`, of log_prob, loss and sample."""

from vae_jax.priors.base import Prior, Standardised, StandardNormal
from vae_jax.priors.creation import PRIORS, check_options, create_prior
from vae_jax.priors.fitting import set_from_data

__all__ = [
    "PRIORS",
    "Prior",
    "StandardNormal",
    "Standardised",
    "check_options",
    "create_prior",
    "set_from_data",
]
