"""The approximate posterior q(z | x). Densities in nats, event axes summed, batch axis kept."""

import math

import flax.struct
import jax
import jax.numpy as jnp


def sum_event(values: jax.Array) -> jax.Array:
    """Sums all axes but the first: [B, ...] -> [B]."""
    return values.reshape(values.shape[0], -1).sum(axis=-1)


def normal_log_prob(value: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Elementwise log-density of N(mean, exp(log_std)^2), in nats."""
    standardised = (value - mean) * jnp.exp(-log_std)
    return -0.5 * (standardised**2 + math.log(2.0 * math.pi)) - log_std


@flax.struct.dataclass
class DiagonalGaussian:
    """N(mean, diag(exp(log_std)^2)); both float32 [B, *latent_shape]."""

    mean: jax.Array
    log_std: jax.Array

    @property
    def std(self) -> jax.Array:
        return jnp.exp(self.log_std)

    def reparameterise(self, noise: jax.Array) -> jax.Array:
        """Maps standard normal noise [B, *latent_shape] to a sample (Kingma & Welling 2014)."""
        return self.mean + self.std * noise

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log q(z), nats, [B]."""
        return sum_event(normal_log_prob(z, self.mean, self.log_std))

    def kl_to_standard_normal(self) -> jax.Array:
        """KL(q, N(0, I)) of each latent dimension in closed form, nats, [B, *latent_shape]."""
        return 0.5 * (self.mean**2 + self.std**2 - 1.0) - self.log_std


def standard_normal_log_prob(z: jax.Array) -> jax.Array:
    """log N(z; 0, I), nats, [B]."""
    return sum_event(normal_log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z)))
