"""The discretised logistic likelihood, an exact mass function over the 256 levels of a pixel."""

import jax
import jax.numpy as jnp

from vae_jax.distributions import sum_event
from vae_jax.likelihoods.base import Likelihood, register, soft_floor

# Soft floor of the log-scale for values in [-1, 1]; that of Salimans et al. 2017, arXiv:1701.05517.
MIN_LOGISTIC_LOG_SCALE = -7.0
LEVEL_HALF_WIDTH = 1.0 / 255.0  # half the width of one of 256 levels on [-1, 1]


def discretized_logistic_log_prob(x: jax.Array, loc: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Returns the log-mass of a logistic rounded to 256 levels on [-1, 1].

    The two outer levels are open-ended. With the sigmoid s, the identity
    s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)) is exact, and its logarithm is finite for every input.
    The usual difference of two sigmoids cancels in the tails and needs an approximate branch.

    Args:
      x: levels, 2k/255 - 1.
      loc, log_scale: location and log-scale of the logistic, in the same units.
    """
    inverse_scale = jnp.exp(-log_scale)
    upper = (x + LEVEL_HALF_WIDTH - loc) * inverse_scale
    lower = (x - LEVEL_HALF_WIDTH - loc) * inverse_scale
    log_below_upper = jax.nn.log_sigmoid(upper)
    log_above_lower = jax.nn.log_sigmoid(-lower)
    # Kept above 0, because it underflows to 0 if the scale is enormous.
    width = jnp.maximum(2.0 * LEVEL_HALF_WIDTH * inverse_scale, 1e-37)
    log_mass = log_below_upper + log_above_lower + jnp.log(-jnp.expm1(-width))
    log_mass = jnp.where(x < -1.0 + LEVEL_HALF_WIDTH, log_below_upper, log_mass)
    return jnp.where(x > 1.0 - LEVEL_HALF_WIDTH, log_above_lower, log_mass)


def sample_discretized_logistic(key: jax.Array, loc: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Draws from a logistic and rounds to the nearest of 256 levels on [-1, 1]."""
    draw = loc + jnp.exp(log_scale) * jax.random.logistic(key, loc.shape)
    return to_symmetric(jnp.round(255.0 * jnp.clip(to_unit(draw), 0.0, 1.0)) / 255.0)


def to_symmetric(x: jax.Array) -> jax.Array:
    """Maps [0, 1] to [-1, 1]."""
    return 2.0 * x - 1.0


def to_unit(x: jax.Array) -> jax.Array:
    """Maps [-1, 1] to [0, 1]."""
    return 0.5 * (x + 1.0)


@register("discretized_logistic")
class DiscretizedLogistic(Likelihood):
    """One logistic per pixel and channel, rounded to 256 levels.

    Source: Kingma et al. 2016, arXiv:1606.04934. `mean` is the location clipped to the range, which
    is the mean of the mass function up to edge effects of the order of the scale.
    """

    is_discrete = True

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_channels

    @staticmethod
    def _parameters(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (loc, log_scale), both [B, H, W, C]."""
        loc, log_scale = jnp.split(outputs, 2, axis=-1)
        return loc, soft_floor(log_scale, MIN_LOGISTIC_LOG_SCALE)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        loc, log_scale = self._parameters(outputs)
        return sum_event(discretized_logistic_log_prob(to_symmetric(x), loc, log_scale))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        return to_unit(sample_discretized_logistic(key, *self._parameters(outputs)))

    def mean(self, outputs: jax.Array) -> jax.Array:
        return jnp.clip(to_unit(self._parameters(outputs)[0]), 0.0, 1.0)
