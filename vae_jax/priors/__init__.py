"""Priors p(z): linen modules with one interface, `Prior`, of log_prob, loss and sample."""

from vae_jax.priors.base import REGISTRY, Prior, Standardised, StandardNormal, names, register
from vae_jax.priors.creation import check_options, create_prior, kind, start_from_data
from vae_jax.registry import import_modules

FIRST = ("base", "vamp", "mixture", "ex_post_mixture", "flow", "diffusion")
import_modules(__name__, __path__, FIRST)

__all__ = [
    "REGISTRY",
    "Prior",
    "StandardNormal",
    "Standardised",
    "check_options",
    "create_prior",
    "kind",
    "names",
    "register",
    "start_from_data",
]
