"""The interface of all priors p(z), the standard normal prior, and standardisation for others."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.registry import Registry
from vae_jax.typing import ImageShape, PyTree


class VAEParts(NamedTuple):
    """What a prior may need of the VAE that it belongs to.

    Attributes:
      latent_shape: (D,) or (h, w, c).
      image_shape: (H, W, C).
      encoder: the encoder, which the prior may share.
      dtype: type of the activations.
    """

    latent_shape: tuple[int, ...]
    image_shape: ImageShape
    encoder: nn.Module
    dtype: jnp.dtype = jnp.float32


class Prior(nn.Module):
    """A density over latents [B, *latent_shape], in nats, float32.

    A class that is registered can be asked for what depends on the kind of prior alone (other
    properties need an instance):

      standardised: whether it is created inside `Standardised`.
      has_parameters: whether there is anything to train.
      splits_by_dimension: whether it is N(0, I), whose rate is a sum over latent dimensions.
      trains_in_steps: False for a prior that `start_from_data` fits completely.

    Attributes:
      latent_shape: (D,) or (h, w, c).
    """

    latent_shape: tuple[int, ...]
    standardised = False
    has_parameters = True
    splits_by_dimension = False
    trains_in_steps = True

    @classmethod
    def create(cls, vae: VAEParts, **options: Any) -> Self:
        """Returns the prior of a VAE, with those of its registered options that have a value."""
        return cls(vae.latent_shape, **options)

    @classmethod
    def check(cls, latent_shape: tuple[int, ...], options: Mapping[str, Any]) -> None:
        """Raises an InputError if the options fit neither each other nor the latent."""

    @classmethod
    def gives_bound(cls, options: Mapping[str, Any]) -> bool:
        """Returns whether the loss is a bound that a VAE can be trained on together with it."""
        del options
        return True

    @classmethod
    def start_from_data(
        cls, params: PyTree, images: np.ndarray, z: np.ndarray | None, seed: int
    ) -> PyTree:
        """Returns the parameters, with those that come from data set; a tree like `params`.

        Args:
          params: initial parameters of the prior.
          images: images of the training split, uint8 [N, H, W, C].
          z: one draw from q(z | x) for each image, [N, *latent_shape], standardised if the prior
            is; None if the VAE is not trained yet.
          seed: random seed.
        """
        del images, z, seed
        return params

    @property
    def is_exact(self) -> bool:
        """Whether `log_prob` is exact, not a random number whose mean is a lower bound on it."""
        return True

    @property
    def samples_in_steps(self) -> bool:
        """Whether `sample` jits its own steps and must not be jitted as a whole."""
        return False

    @property
    def has_noise_map(self) -> bool:
        """Whether `to_noise` and `from_noise` are implemented."""
        return False

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Returns log p(z), [B], or an unbiased estimate of a lower bound on it.

        Args:
          z: latents, [B, *latent_shape].
          keys: one random key per row, [B]; needed only if the prior is not exact.
        """
        raise NotImplementedError

    def loss(self, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (what training minimises, log p(z) or its bound for the same draws), both [B]."""
        log_prob = self.log_prob(z, jax.random.split(key, z.shape[0]))
        return -log_prob, log_prob

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        """Draws [num_samples, *latent_shape].

        Args:
          key: random key of the draws.
          num_samples: number of draws.
          temperature: factor on every standard deviation that noise is drawn with. Unless it is 1,
            the draws are not from the density of `log_prob`.
        """
        raise NotImplementedError

    def to_noise(self, z: jax.Array) -> jax.Array:
        """Returns the noise from which `from_noise` makes the latents z, both [B, *latent_shape].

        It is N(0, I) if z ~ p(z).
        """
        raise NotImplementedError

    def from_noise(self, noise: jax.Array) -> jax.Array:
        """Maps noise to latents, both [B, *latent_shape], without drawing anything.

        The latents have the density p(z) if the noise is N(0, I).
        """
        raise NotImplementedError


REGISTRY: Registry[type[Prior]] = Registry("prior")
register, names = REGISTRY.register, REGISTRY.names


@register("standard_normal")
class StandardNormal(Prior):
    """The standard normal distribution, N(0, I)."""

    has_noise_map = True
    has_parameters = False
    splits_by_dimension = True

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return standard_normal_log_prob(z)

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        return temperature * jax.random.normal(key, (num_samples, *self.latent_shape))

    def to_noise(self, z: jax.Array) -> jax.Array:
        return z

    def from_noise(self, noise: jax.Array) -> jax.Array:
        return noise


class Standardised(Prior):
    """The prior `base` over standardised latents (z - mean) / std, as a density over z.

    The density includes the Jacobian of the standardisation. The mean and the standard deviation of
    each latent dimension are parameters without a gradient: 0 and 1 until they are set to those of
    the aggregate posterior. They are stored flat, like biases and scales, so that weight decay does
    not reach them either.

    Attributes:
      base: prior over the standardised latents.
    """

    base: Prior

    def setup(self) -> None:
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
        """Returns (mean, std), both [*latent_shape]."""
        mean, std = jax.lax.stop_gradient((self.mean, self.std))
        return mean.reshape(self.latent_shape), std.reshape(self.latent_shape)

    def _standardise(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns ((z - mean) / std, log-determinant of the Jacobian of this map)."""
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
