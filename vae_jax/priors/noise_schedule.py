"""The learned noise schedule of the diffusion prior."""

import flax.linen as nn
import jax
import jax.numpy as jnp

NUM_BINS = 50  # bins of the noise schedule
# Uniform part of the schedule's density p, so that 1 / p(gamma) stays small and no noise level is
# forgotten.
UNIFORM_SHARE = 0.2


class NoiseSchedule(nn.Module):
    """The learned, monotone noise schedule gamma(t): the quantile function of a density p.

    p is a density over noise levels, a histogram with bins of equal width. The bound holds for
    every p. Its variance is smallest if p is proportional to the contribution of each noise level,
    and `fit` moves p towards that. VDM learns a monotone network for the same purpose, and the end
    points as well; here the end points are fixed.

    Attributes:
      gamma_min, gamma_max: end points of the schedule.
    """

    gamma_min: float
    gamma_max: float

    def setup(self) -> None:
        self.logits = self.param("logits", nn.initializers.zeros, (NUM_BINS,))

    def _probabilities(self) -> jax.Array:
        """Returns the probability of each bin, [NUM_BINS]."""
        return (1.0 - UNIFORM_SHARE) * nn.softmax(self.logits) + UNIFORM_SHARE / NUM_BINS

    @property
    def _bin_width(self) -> float:
        return (self.gamma_max - self.gamma_min) / NUM_BINS

    def gamma(self, t: jax.Array) -> jax.Array:
        """Returns noise levels at times t in [0, 1]; no gradient flows through them."""
        edges = jnp.concatenate([jnp.zeros(1), jnp.cumsum(self._probabilities())])
        levels = jnp.linspace(self.gamma_min, self.gamma_max, NUM_BINS + 1)
        return jax.lax.stop_gradient(jnp.interp(t, edges / edges[-1], levels))

    def density(self, gamma: jax.Array) -> jax.Array:
        """Returns p(gamma) = dt / dgamma."""
        bins = ((gamma - self.gamma_min) / self._bin_width).astype(jnp.int32)
        return self._probabilities()[jnp.clip(bins, 0, NUM_BINS - 1)] / self._bin_width

    def fit(self, gamma: jax.Array, contributions: jax.Array) -> jax.Array:
        """Returns a term of value 0, [B], whose gradient moves p towards the contributions.

        The gradient is that of the cross-entropy between each noise level's share of the
        contributions and p. It is scaled so that it does not depend on their size.

        Args:
          gamma: noise levels drawn with density p, [B].
          contributions: non-negative contribution of each noise level to the bound, [B].
        """
        weights = jax.lax.stop_gradient(contributions / (contributions.mean() + 1e-12))
        cross_entropy = -weights * jnp.log(self.density(gamma))
        return cross_entropy - jax.lax.stop_gradient(cross_entropy)
