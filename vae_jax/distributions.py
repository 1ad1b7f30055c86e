"""Gaussian log-densities and the approximate posterior q(z | x).

Log-densities are in nats. Unless a function is elementwise, they are summed over all axes except
the batch axis. A latent z is one array, or a pytree with one array for each group of latents. Its
posterior then has one `DiagonalGaussian` in each place.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax.typing import Array, PyTree


def sum_event(values: PyTree) -> jax.Array:
    """Sums over all axes but the first, and over groups of latents: [B, ...] -> [B]."""
    sums = [leaf.reshape(leaf.shape[0], -1).sum(axis=-1) for leaf in jax.tree.leaves(values)]
    return functools.reduce(operator.add, sums)


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


def standard_normal_log_prob(z: PyTree) -> jax.Array:
    """Returns log N(z; 0, I), nats, [B]."""
    return sum_event(
        jax.tree.map(lambda a: normal_log_prob(a, jnp.zeros_like(a), jnp.zeros_like(a)), z)
    )


def standard_normal_noise(key: jax.Array, like: PyTree, *batch: int) -> PyTree:
    """Draws noise from N(0, I), float32.

    Args:
      key: random key; several groups of latents use keys that are split from it.
      like: arrays, or their shapes as `jax.ShapeDtypeStruct`, for the shapes of the noise.
      *batch: axes that are put before these shapes.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    noise = [
        # float32 also where JAX is set to 64-bit numbers
        jax.random.normal(k, (*batch, *a.shape), jnp.float32)
        for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)


def _each_group(function: Callable[..., Any], posterior: PyTree, *trees: PyTree) -> PyTree:
    """Applies a function to the distribution of each group of latents."""
    return jax.tree.map(
        function, posterior, *trees, is_leaf=lambda q: isinstance(q, DiagonalGaussian)
    )


def reparameterise(posterior: PyTree, noise: PyTree) -> PyTree:
    """Maps noise from N(0, I) to a sample of q(z | x), arrays of the same shapes."""
    return _each_group(DiagonalGaussian.reparameterise, posterior, noise)


def posterior_mean(posterior: PyTree) -> PyTree:
    """Returns E[z | x], [B, *latent_shape]."""
    return _each_group(lambda q: q.mean, posterior)


def sample_posterior(posterior: PyTree, key: jax.Array) -> PyTree:
    """Draws z ~ q(z | x), [B, *latent_shape]."""
    return reparameterise(posterior, standard_normal_noise(key, posterior_mean(posterior)))


def posterior_log_prob(posterior: PyTree, z: PyTree) -> jax.Array:
    """Returns log q(z | x), nats, [B]."""
    return sum_event(_each_group(DiagonalGaussian.log_prob, posterior, z))


def rate_per_dim(posterior: PyTree) -> PyTree:
    """Returns KL(q(z | x), N(0, I)) of each latent dimension, nats, [B, *latent_shape]."""
    return _each_group(DiagonalGaussian.kl_to_standard_normal, posterior)
