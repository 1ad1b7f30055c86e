"""What every prior p(z) offers, and the two that need nothing learned."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.distributions import standard_normal_log_prob


class Prior(nn.Module):
    """A density over latents [B, *latent_shape], in nats, float32.

    `is_exact` tells whether `log_prob` is the log-density or a random number whose expectation is
    a lower bound on it; `samples_in_steps` whether `sample` jits its own steps, instead of being
    one thing to jit; `has_noise_map` whether `to_noise` and `from_noise` exist.
    """

    latent_shape: tuple[int, ...]
    is_exact = True
    samples_in_steps = False
    has_noise_map = False

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """log p(z), [B], or an unbiased estimate of a lower bound on it.

        Args:
          z: [B, *latent_shape].
          keys: one key per row, [B]; only where the prior is not exact.
        """
        raise NotImplementedError

    def loss(self, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What training minimises and log p(z) of the same draws (or its bound), both [B]."""
        log_prob = self.log_prob(z, jax.random.split(key, z.shape[0]))
        return -log_prob, log_prob

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        """Draws [num_samples, *latent_shape].

        Args:
          key: of the draws.
          num_samples: how many.
          temperature: factor on every standard deviation that noise is drawn with; other than 1 it
            is another model, of which `log_prob` says nothing.
        """
        raise NotImplementedError

    def to_noise(self, z: jax.Array) -> jax.Array:
        """Latents [B, *latent_shape] -> what `from_noise` makes them of; N(0, I) if z ~ p(z)."""
        raise NotImplementedError

    def from_noise(self, noise: jax.Array) -> jax.Array:
        """Noise [B, *latent_shape] -> latents: p(z) where the noise is N(0, I), without a draw."""
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I)."""

    has_noise_map = True

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return standard_normal_log_prob(z)

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        return temperature * jax.random.normal(key, (num_samples, *self.latent_shape))

    def to_noise(self, z: jax.Array) -> jax.Array:
        return z

    def from_noise(self, noise: jax.Array) -> jax.Array:
        return noise


class Standardised(Prior):
    """`base` over (z - mean) / std, with the Jacobian of that map in the density.

    Mean and standard deviation of every latent dimension are parameters that no gradient reaches:
    0 and 1 until they are set to the aggregate posterior's. They are flat, as biases and scales
    are, which no weight decay reaches either.
    """

    base: Prior

    def setup(self):
        size = (math.prod(self.latent_shape),)
        self.mean = self.param("mean", nn.initializers.zeros, size)
        self.std = self.param("std", nn.initializers.ones, size)

    @property
    def is_exact(self) -> bool:
        return self.base.is_exact

    @property
    def samples_in_steps(self) -> bool:
        return self.base.samples_in_steps

    @property
    def has_noise_map(self) -> bool:
        return self.base.has_noise_map

    def _moments(self) -> tuple[jax.Array, jax.Array]:
        """(mean, std) as [*latent_shape]."""
        moments = jax.lax.stop_gradient((self.mean, self.std))
        return tuple(values.reshape(self.latent_shape) for values in moments)

    def _standardise(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """((z - mean) / std, log-determinant of its Jacobian)."""
        mean, std = self._moments()
        return (z - mean) / std, -jnp.log(std).sum()

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        standardised, log_det = self._standardise(z)
        return self.base.log_prob(standardised, keys) + log_det

    def loss(self, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        standardised, log_det = self._standardise(z)
        loss, log_prob = self.base.loss(standardised, key)
        return loss - log_det, log_prob + log_det

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        mean, std = self._moments()
        return mean + std * self.base.sample(key, num_samples, temperature)

    def to_noise(self, z: jax.Array) -> jax.Array:
        return self.base.to_noise(self._standardise(z)[0])

    def from_noise(self, noise: jax.Array) -> jax.Array:
        mean, std = self._moments()
        return mean + std * self.base.from_noise(noise)
