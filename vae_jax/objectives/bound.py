"""Terms of the evidence lower bound, one value per image, in nats.

elbo = -(distortion + rate)                                     what is reported, weight always 1
loss = mean(distortion) + kl_weight * free_bits(mean rate)      what is minimised (by default)

The rate is KL(q, N(0, I)) in closed form plus an estimate of E_q[log N(z; 0, I) - log p(z)], at the
z of the distortion: unbiased for KL(q, p), and free of noise where p is N(0, I).
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax.distributions import DiagonalGaussian, standard_normal_log_prob, sum_event
from vae_jax.likelihoods import Likelihood


def compute_rate(posterior: DiagonalGaussian, z: jax.Array, log_prior: jax.Array) -> jax.Array:
    """KL(q(z | x), p(z)) estimated at one z ~ q(z | x) with its log p(z), [B]."""
    ratio = log_prior - standard_normal_log_prob(z)
    return sum_event(posterior.kl_to_standard_normal()) - ratio


@flax.struct.dataclass
class ElboTerms:
    """Single-sample estimates for a batch.

    Attributes:
      distortion: -log p(x | z) at one z ~ q(z | x), [B].
      rate_per_dim: KL(q(z | x), N(0, I)) of each latent dimension, [B, *latent_shape]. Other
        priors do not split by dimension.
      log_prior_ratio: log p(z) - log N(z; 0, I) at the same z, [B]: 0 where p is N(0, I). Where
        log p(z) is bounded from below, so is the ELBO.
    """

    distortion: jax.Array
    rate_per_dim: jax.Array
    log_prior_ratio: jax.Array

    @property
    def rate(self) -> jax.Array:
        """KL(q(z | x), p(z)), [B]: exact for N(0, I), else an unbiased estimate."""
        return sum_event(self.rate_per_dim) - self.log_prior_ratio

    @property
    def elbo(self) -> jax.Array:
        """Evidence lower bound, [B]; never carries beta, warm-up or free bits."""
        return -(self.distortion + self.rate)


def compute_elbo_terms(
    likelihood: Likelihood,
    posterior: DiagonalGaussian,
    z: jax.Array,
    log_prior: jax.Array,
    outputs: jax.Array,
    x: jax.Array,
) -> ElboTerms:
    """Both terms of the bound, given the decoder's outputs at one posterior sample.

    Args:
      likelihood: p(x | z).
      posterior: q(z | x), [B, *latent_shape].
      z: drawn from it.
      log_prior: log p(z), or an estimate of a lower bound on it, [B].
      outputs: decoder outputs at z, [B, H, W, num_outputs].
      x: images in [0, 1], [B, H, W, C].
    """
    return ElboTerms(
        distortion=-likelihood.log_prob(outputs, x),
        rate_per_dim=posterior.kl_to_standard_normal(),
        log_prior_ratio=log_prior - standard_normal_log_prob(z),
    )


def apply_free_bits(rate_per_dim: jax.Array, free_bits: float) -> jax.Array:
    """sum_d max(free_bits, mean_b rate[b, d]) (Kingma et al. 2016, arXiv:1606.04934, eq. 15).

    The maximum is over the batch mean, so that single images may use a dimension less than others.

    Args:
      rate_per_dim: nats, [B, *latent_shape].
      free_bits: nats of each latent dimension that cost nothing; 0 gives the mean rate.

    Returns:
      A scalar, nats per image.
    """
    return jnp.maximum(rate_per_dim.mean(axis=0), free_bits).sum()


def compute_loss(
    terms: ElboTerms,
    kl_weight: jax.typing.ArrayLike,
    free_bits: float,
    distortion_weight: float = 1.0,
) -> jax.Array:
    """The scalar that training minimises, nats per image where the distortion's weight is 1.

    Free bits are of a rate that splits by dimension: with a prior other than N(0, I) they must be
    0.
    """
    rate = apply_free_bits(terms.rate_per_dim, free_bits) - terms.log_prior_ratio.mean()
    return distortion_weight * terms.distortion.mean() + kl_weight * rate


def compute_log_weights(
    likelihood: Likelihood,
    posterior: DiagonalGaussian,
    z: jax.Array,
    log_prior: jax.Array,
    outputs: jax.Array,
    x: jax.Array,
) -> jax.Array:
    """log p(x | z) + log p(z) - log q(z | x) at one z ~ q(z | x), [B].

    `log_prior` has to be exact: the exponential of an estimate of a bound may on average exceed
    p(z), and the importance-weighted bound then log p(x).
    """
    return likelihood.log_prob(outputs, x) + log_prior - posterior.log_prob(z)


def compute_iw_elbo(log_weights: jax.Array) -> jax.Array:
    """Importance-weighted bound (Burda et al. 2016, arXiv:1509.00519) of each image.

    The log-mean-exp is over the samples of one image: averaging weights over a batch first would be
    no bound on log p(x).

    Args:
      log_weights: [K, B].

    Returns:
      log(mean_k exp(log_weights[k])), nats, [B]; equals the ELBO in expectation at K = 1.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def bits_per_dim(elbo: float, image_shape: tuple[int, int, int]) -> float:
    """-elbo / (H W C ln 2), where the likelihood is a mass function over 256 levels."""
    height, width, channels = image_shape
    return -elbo / (height * width * channels * math.log(2.0))
