"""Likelihoods p(x | z) of images with values in [0, 1]; all have the interface of `Likelihood`."""

from vae_jax.likelihoods.base import REGISTRY as REGISTRY
from vae_jax.likelihoods.base import Likelihood as Likelihood
from vae_jax.likelihoods.base import check_options as check_options
from vae_jax.likelihoods.base import create_likelihood as create_likelihood
from vae_jax.likelihoods.base import kind as kind
from vae_jax.likelihoods.base import names as names
from vae_jax.likelihoods.base import register as register
from vae_jax.likelihoods.base import soft_floor as soft_floor
from vae_jax.likelihoods.bernoulli import Bernoulli as Bernoulli
from vae_jax.likelihoods.bernoulli import ContinuousBernoulli as ContinuousBernoulli
from vae_jax.likelihoods.gaussian import GAUSSIAN_VARIANCES as GAUSSIAN_VARIANCES
from vae_jax.likelihoods.gaussian import MIN_GAUSSIAN_LOG_STD as MIN_GAUSSIAN_LOG_STD
from vae_jax.likelihoods.gaussian import Gaussian as Gaussian
from vae_jax.likelihoods.logistic import DiscretizedLogistic as DiscretizedLogistic
from vae_jax.likelihoods.logistic_mixture import (
    DiscretizedLogisticMixture as DiscretizedLogisticMixture,
)
from vae_jax.registry import import_modules

import_modules(__name__, __path__)
