"""Priors p(z): linen modules with one interface, `Prior`, of log_prob, loss and sample."""

from vae_jax.priors.base import REGISTRY as REGISTRY
from vae_jax.priors.base import Prior as Prior
from vae_jax.priors.base import Standardised as Standardised
from vae_jax.priors.base import StandardNormal as StandardNormal
from vae_jax.priors.base import VAEParts as VAEParts
from vae_jax.priors.base import names as names
from vae_jax.priors.base import register as register
from vae_jax.priors.creation import check_options as check_options
from vae_jax.priors.creation import create_prior as create_prior
from vae_jax.priors.creation import kind as kind
from vae_jax.priors.creation import start_from_data as start_from_data
from vae_jax.registry import import_modules

FIRST = ("base", "vamp", "mixture", "ex_post_mixture", "flow", "diffusion")
import_modules(__name__, __path__, FIRST)
