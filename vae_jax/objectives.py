"""Terms of the evidence lower bound (ELBO), one value per image, in nats.

elbo = -(distortion + rate)                                     reported, always with weight 1
loss = mean(distortion) + kl_weight * free_bits(mean rate)      minimised (by default)

The rate is KL(q, N(0, I)) in closed form plus an estimate of E_q[log N(z; 0, I) - log p(z)] at the
same z as the distortion. It is unbiased for KL(q, p), and exact if p is N(0, I).

A posterior and its z are trees with one entry for each group of latents; a model with one group has
a `DiagonalGaussian` and an array [B, *latent_shape].
"""

import functools
import math
import operator

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax.distributions import (
    posterior_log_prob,
    rate_per_dim,
    standard_normal_log_prob,
    sum_event,
)
from vae_jax.likelihoods import Likelihood
from vae_jax.typing import ImageShape, PyTree


def compute_rate(posterior: PyTree, z: PyTree, log_prior: jax.Array) -> jax.Array:
    """Estimates KL(q(z | x), p(z)), [B], from one z ~ q(z | x) and its log p(z)."""
    ratio = log_prior - standard_normal_log_prob(z)
    return sum_event(rate_per_dim(posterior)) - ratio


@flax.struct.dataclass
class ElboTerms:
    """Single-sample estimates for a batch.

    Attributes:
      distortion: -log p(x | z) at one z ~ q(z | x), [B].
      rate_per_dim: KL(q(z | x), N(0, I)) of each latent dimension, [B, *latent_shape]. The rate of
        other priors does not split by dimension.
      log_prior_ratio: log p(z) - log N(z; 0, I) at the same z, [B]; 0 if p is N(0, I). If log p(z)
        is an estimate of a lower bound, the ELBO is one as well.
    """

    distortion: jax.Array
    rate_per_dim: PyTree
    log_prior_ratio: jax.Array

    @property
    def rate(self) -> jax.Array:
        """KL(q(z | x), p(z)), [B]; exact for N(0, I), otherwise an unbiased estimate."""
        return sum_event(self.rate_per_dim) - self.log_prior_ratio

    @property
    def elbo(self) -> jax.Array:
        """Evidence lower bound, [B], always without beta, warm-up and free bits."""
        return -(self.distortion + self.rate)


def compute_elbo_terms(
    likelihood: Likelihood,
    posterior: PyTree,
    z: PyTree,
    log_prior: jax.Array,
    outputs: jax.Array,
    x: jax.Array,
) -> ElboTerms:
    """Computes both terms of the bound from the decoder's outputs at one posterior sample.

    Args:
      likelihood: p(x | z).
      posterior: q(z | x), [B, *latent_shape].
      z: a sample from the posterior, [B, *latent_shape].
      log_prior: log p(z), or an estimate of a lower bound on it, [B].
      outputs: decoder outputs at z, [B, H, W, num_outputs].
      x: images in [0, 1], [B, H, W, C].
    """
    return ElboTerms(
        distortion=-likelihood.log_prob(outputs, x),
        rate_per_dim=rate_per_dim(posterior),
        log_prior_ratio=log_prior - standard_normal_log_prob(z),
    )


def apply_free_bits(rate_per_dim: PyTree, free_bits: float) -> jax.Array:
    """Returns sum_d max(free_bits, mean_b rate[b, d]).

    Source: Kingma et al. 2016, arXiv:1606.04934, eq. 15. The maximum is taken after the mean
    over the batch, so that single images may use a dimension less than others.

    Args:
      rate_per_dim: nats, [B, *latent_shape].
      free_bits: nats that are free in each latent dimension; 0 gives the mean rate.

    Returns:
      A scalar, nats per image.
    """
    groups = jax.tree.leaves(rate_per_dim)
    return functools.reduce(
        operator.add, [jnp.maximum(rate.mean(axis=0), free_bits).sum() for rate in groups]
    )


def compute_loss(
    terms: ElboTerms,
    kl_weight: jax.typing.ArrayLike,
    free_bits: float,
    distortion_weight: float = 1.0,
) -> jax.Array:
    """Returns the scalar that training minimises, in nats per image if `distortion_weight` is 1.

    Free bits need a rate that splits by dimension, so they must be 0 unless the prior is N(0, I).
    """
    rate = apply_free_bits(terms.rate_per_dim, free_bits) - terms.log_prior_ratio.mean()
    return distortion_weight * terms.distortion.mean() + kl_weight * rate


def compute_log_weights(
    likelihood: Likelihood,
    posterior: PyTree,
    z: PyTree,
    log_prior: jax.Array,
    outputs: jax.Array,
    x: jax.Array,
) -> jax.Array:
    """Returns log p(x | z) + log p(z) - log q(z | x) at one z ~ q(z | x), [B].

    `log_prior` has to be exact. The exponential of an estimate of a bound may exceed p(z) on
    average, and then the importance-weighted bound may exceed log p(x).
    """
    return likelihood.log_prob(outputs, x) + log_prior - posterior_log_prob(posterior, z)


def compute_iw_elbo(log_weights: jax.Array) -> jax.Array:
    """Computes the importance-weighted bound of each image (Burda et al. 2016, arXiv:1509.00519).

    The log-mean-exp is over the samples of one image. Averaging the weights over a batch first
    would not give a bound on log p(x).

    Args:
      log_weights: log-weights of K samples for each image, [K, B].

    Returns:
      log(mean_k exp(log_weights[k])), nats, [B]; equals the ELBO in expectation at K = 1.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def bits_per_dim(elbo: float, image_shape: ImageShape) -> float:
    """Returns -elbo / (H W C ln 2), for likelihoods that are mass functions over 256 levels."""
    height, width, channels = image_shape
    return -elbo / (height * width * channels * math.log(2.0))
