"""Likelihoods p(x | z) of images with values in [0, 1].

Each likelihood is a small frozen dataclass without parameters of its own. It is parameterised by
the decoder's outputs, float32 [B, H, W, num_outputs]:

    log_prob(outputs, x)    nats per image, [B]
    sample(key, outputs)    images [B, H, W, C] in [0, 1]
    mean(outputs)           images [B, H, W, C] in [0, 1]

`binarize` tells whether images are made binary before the model sees them. `is_discrete` tells
whether log_prob is a mass function over the 256 levels of 8-bit images, and so comparable in bits
per dimension; otherwise it is a density on the unit interval (or, for the Bernoulli, a
cross-entropy). `has_log_std` tells whether the last output channel is one learned scalar, the log
standard deviation of all pixels.
"""

from vae_jax.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from vae_jax.likelihoods.creation import LIKELIHOODS, Likelihood, create_likelihood
from vae_jax.likelihoods.gaussian import GAUSSIAN_VARIANCES, MIN_GAUSSIAN_LOG_STD, Gaussian
from vae_jax.likelihoods.logistic import (
    LEVEL_HALF_WIDTH,
    MIN_LOGISTIC_LOG_SCALE,
    DiscretizedLogistic,
    discretized_logistic_log_prob,
)
from vae_jax.likelihoods.logistic_mixture import DiscretizedLogisticMixture

__all__ = [
    "GAUSSIAN_VARIANCES",
    "LEVEL_HALF_WIDTH",
    "LIKELIHOODS",
    "MIN_GAUSSIAN_LOG_STD",
    "MIN_LOGISTIC_LOG_SCALE",
    "Bernoulli",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Likelihood",
    "create_likelihood",
    "discretized_logistic_log_prob",
]
