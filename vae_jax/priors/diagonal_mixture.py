"""What mixtures of Gaussians share, and the mixture with diagonal covariances."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from vae_jax.distributions import normal_log_prob, sum_event
from vae_jax.priors.base import Prior
from vae_jax.registry import integer

NUM_COMPONENTS = integer(1, 10_000)

# By default, accelerators round the factors of a product to 8 or 11 bits.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def mixture_log_prob(
    z: jax.Array, log_weights: jax.Array, means: jax.Array, log_stds: jax.Array
) -> jax.Array:
    """Returns log sum_k w_k N(z; m_k, diag(s_k^2)), nats, [B].

    The squares (z - m)^2 / s^2 are expanded, to compute matrix products instead of an array
    [B, K, D]. This loses the digits in which z and m agree. If the two are far apart, the result is
    large and the loss is harmless, so two measures suffice: a common centre of the means is
    subtracted, and the likeliest component of each row is computed again without the expansion.

    Args:
      z: latents, [B, D].
      log_weights: logarithms of weights that sum to 1, [K].
      means, log_stds: means and log standard deviations, [K, D].
    """
    # Under jit, XLA's CPU backend (jaxlib 0.10.2) returns wrong numbers if log_stds is a constant
    # whose entries are all equal.
    log_stds = jax.lax.optimization_barrier(log_stds)
    # The result does not depend on the centre, and neither should the rounding of its gradient.
    centre = jax.lax.stop_gradient(means.mean(axis=0))
    offsets, centred, precisions = means - centre, z - centre, jnp.exp(-2.0 * log_stds)
    quadratic = (
        matmul(centred**2, precisions.T)
        - 2.0 * matmul(centred, (offsets * precisions).T)
        + (offsets**2 * precisions).sum(axis=1)
    )
    log_scales = log_stds.sum(axis=1) + 0.5 * means.shape[1] * math.log(2.0 * math.pi)
    joint = log_weights - log_scales - 0.5 * quadratic

    # One-hot products, because the gradient of indexing is summed in random order on a GPU.
    likeliest = jax.nn.one_hot(joint.argmax(axis=1), len(means), dtype=means.dtype)
    mean, log_std = matmul(likeliest, means), matmul(likeliest, log_stds)
    exact = matmul(likeliest, log_weights) + sum_event(normal_log_prob(z, mean, log_std))
    return logsumexp(jnp.where(likeliest > 0, exact[:, None], joint), axis=1)


def draw_components(
    key: jax.Array, num_samples: int, log_weights: jax.Array, dimension: int
) -> tuple[jax.Array, jax.Array]:
    """Draws (component of each sample, int [N]; standard normal noise [N, dimension])."""
    component_key, noise_key = jax.random.split(key)
    components = jax.random.categorical(
        component_key, log_weights, shape=(num_samples,), mode="low"
    )
    return components, jax.random.normal(noise_key, (num_samples, dimension))


class DiagonalMixture(Prior):
    """A mixture of Gaussians with diagonal covariances; subclasses define its components."""

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns (log-weights [K], means [K, D], log standard deviations [K, D])."""
        raise NotImplementedError

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return mixture_log_prob(z.reshape(z.shape[0], -1), *self.components())

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        """Draws [num_samples, *latent_shape]; the components do not depend on the temperature."""
        log_weights, means, log_stds = self.components()
        chosen, noise = draw_components(key, num_samples, log_weights, means.shape[1])
        z = means[chosen] + temperature * jnp.exp(log_stds[chosen]) * noise
        return z.reshape(num_samples, *self.latent_shape)


def choose_rows(num_rows: int, num_chosen: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random row indices, int [num_chosen]; they repeat only if there are too few rows."""
    return np.resize(rng.permutation(num_rows), num_chosen)
