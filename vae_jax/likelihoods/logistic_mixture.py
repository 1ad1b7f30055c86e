"""The likelihood of PixelCNN++: a mixture of discretised logistics per pixel."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions import sum_event
from vae_jax.likelihoods.base import Likelihood, register, soft_floor
from vae_jax.likelihoods.logistic import (
    MIN_LOGISTIC_LOG_SCALE,
    discretized_logistic_log_prob,
    sample_discretized_logistic,
    to_symmetric,
    to_unit,
)
from vae_jax.registry import integer


@register("discretized_logistic_mixture", num_mixtures=integer(1, 256))
@dataclasses.dataclass(frozen=True)
class DiscretizedLogisticMixture(Likelihood):
    """Mixture of discretised logistics with autoregressive channels.

    Source: Salimans et al. 2017, arXiv:1701.05517. All channels of a pixel share the mixture
    component. Within a component, the location of channel c is shifted by a learned multiple (in
    [-1, 1]) of the value of each earlier channel. `mean` is the weighted mean of the components'
    locations, each clipped to the range.
    """

    num_mixtures: int = 10
    is_discrete = True

    @property
    def _num_coefficients(self) -> int:
        return self.num_channels * (self.num_channels - 1) // 2

    @property
    def num_outputs(self) -> int:
        return self.num_mixtures * (1 + 2 * self.num_channels + self._num_coefficients)

    def _parameters(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns logits [..., K]; loc, log_scale [..., K, C]; coefficients [..., K, C(C-1)/2]."""
        c, k = self.num_channels, self.num_mixtures
        logits, rest = outputs[..., :k], outputs[..., k:].reshape(*outputs.shape[:-1], k, -1)
        loc, log_scale, coefficients = jnp.split(rest, [c, 2 * c], axis=-1)
        return logits, loc, soft_floor(log_scale, MIN_LOGISTIC_LOG_SCALE), jnp.tanh(coefficients)

    def _shifted_loc(
        self, loc: jax.Array, coefficients: jax.Array, channel: int, earlier: jax.Array
    ) -> jax.Array:
        """Returns the location [..., K] of a channel, given the values of the earlier channels.

        Args:
          loc: locations before the shift, [..., K, C].
          coefficients: multiples of the earlier channels, [..., K, C(C-1)/2].
          channel: number of the channel.
          earlier: values of the earlier channels, [..., K or 1, channel].
        """
        first = channel * (channel - 1) // 2
        shift = (coefficients[..., first : first + channel] * earlier).sum(axis=-1)
        return loc[..., channel] + shift

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        logits, loc, log_scale, coefficients = self._parameters(outputs)
        x = to_symmetric(x)[..., None, :]  # [B, H, W, 1, C]
        log_mass = jax.nn.log_softmax(logits, axis=-1)
        for c in range(self.num_channels):
            shifted = self._shifted_loc(loc, coefficients, c, x[..., :c])
            log_mass += discretized_logistic_log_prob(x[..., c], shifted, log_scale[..., c])
        return sum_event(jax.nn.logsumexp(log_mass, axis=-1))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        logits, loc, log_scale, coefficients = self._parameters(outputs)
        component_key, *channel_keys = jax.random.split(key, 1 + self.num_channels)
        component = jax.random.categorical(component_key, logits, mode="low")[..., None, None]
        loc, log_scale, coefficients = (
            jnp.take_along_axis(p, component, axis=-2) for p in (loc, log_scale, coefficients)
        )  # [..., 1, .]
        x = jnp.zeros((*loc.shape[:-1], 0))
        for c, channel_key in enumerate(channel_keys):
            shifted = self._shifted_loc(loc, coefficients, c, x)
            drawn = sample_discretized_logistic(channel_key, shifted, log_scale[..., c])
            x = jnp.concatenate([x, drawn[..., None]], axis=-1)
        return to_unit(x[..., 0, :])

    def mean(self, outputs: jax.Array) -> jax.Array:
        logits, loc, _, coefficients = self._parameters(outputs)
        means = jnp.zeros((*loc.shape[:-1], 0))
        for c in range(self.num_channels):
            shifted = self._shifted_loc(loc, coefficients, c, means)
            means = jnp.concatenate([means, jnp.clip(shifted, -1.0, 1.0)[..., None]], axis=-1)
        mean = to_unit((jax.nn.softmax(logits, axis=-1)[..., None] * means).sum(axis=-2))
        return jnp.clip(mean, 0.0, 1.0)  # rounded weights may add up to a little more than 1
