"""Gaussian log-densities and the approximate posterior q(z | x).

Log-densities are in nats. Unless a function is elementwise, they are summed over all axes except
the batch axis.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax.typing import Array


def sum_event(values: jax.Array) -> jax.Array:
    """Sums over all axes but the first: [B, ...] -> [B]."""
    return values.reshape(values.shape[0], -1).sum(axis=-1)


def normal_log_prob(value: jax.Array, mean: Array | float, log_std: Array | float) -> jax.Array:
    """Returns the elementwise log-density of N(mean, exp(log_std)^2), in nats."""
    standardised = (value - mean) * jnp.exp(-log_std)
    return -0.5 * (standardised**2 + math.log(2.0 * math.pi)) - log_std


@flax.struct.dataclass
class DiagonalGaussian:
    """The distribution N(mean, diag(exp(log_std)^2)).

    Attributes:
      mean, log_std: float32 [B, *latent_shape].
    """

    mean: Array
    log_std: Array

    @property
    def std(self) -> jax.Array:
        """Standard deviation, [B, *latent_shape]."""
        return jnp.exp(self.log_std)

    def reparameterise(self, noise: Array) -> jax.Array:
        """Maps standard normal noise [B, *latent_shape] to a sample (Kingma & Welling 2014)."""
        return jnp.asarray(self.mean) + self.std * noise

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log q(z), nats, [B]."""
        return sum_event(normal_log_prob(z, self.mean, self.log_std))

    def kl_to_standard_normal(self) -> jax.Array:
        """Returns KL(q, N(0, I)) of each latent dimension, exact, nats, [B, *latent_shape]."""
        return 0.5 * (jnp.asarray(self.mean) ** 2 + self.std**2 - 1.0) - self.log_std


def standard_normal_log_prob(z: jax.Array) -> jax.Array:
    """Returns log N(z; 0, I), nats, [B]."""
    return sum_event(normal_log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z)))
