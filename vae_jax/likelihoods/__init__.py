"""Likelihoods p(x | z) of images with values in [0, 1]; all have the interface of `Likelihood`."""

from vae_jax.likelihoods.base import (
    REGISTRY,
    Likelihood,
    check_options,
    create_likelihood,
    kind,
    names,
    register,
    soft_floor,
)
from vae_jax.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from vae_jax.likelihoods.gaussian import GAUSSIAN_VARIANCES, MIN_GAUSSIAN_LOG_STD, Gaussian
from vae_jax.likelihoods.logistic import (
    LEVEL_HALF_WIDTH,
    MIN_LOGISTIC_LOG_SCALE,
    DiscretizedLogistic,
    discretized_logistic_log_prob,
)
from vae_jax.likelihoods.logistic_mixture import DiscretizedLogisticMixture
from vae_jax.registry import import_modules

import_modules(__name__, __path__)

__all__ = [
    "GAUSSIAN_VARIANCES",
    "LEVEL_HALF_WIDTH",
    "MIN_GAUSSIAN_LOG_STD",
    "MIN_LOGISTIC_LOG_SCALE",
    "REGISTRY",
    "Bernoulli",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Likelihood",
    "check_options",
    "create_likelihood",
    "discretized_logistic_log_prob",
    "kind",
    "names",
    "register",
    "soft_floor",
]
