"""A Gaussian with one standard deviation for all pixels."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions import normal_log_prob, sum_event
from vae_jax.likelihoods.base import soft_floor

GAUSSIAN_VARIANCES = ("learned", "batch_optimal", "fixed")
# Floors of the log-scales, approached smoothly so that the gradient never vanishes. Constant
# regions (the black background of Fashion-MNIST) would otherwise drive a scale to zero and its
# density to infinity. -7 is the floor of Salimans et al. 2017, in units of the half range [-1, 1].
MIN_GAUSSIAN_LOG_STD = -6.0


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(sigmoid(output), sigma^2) with one sigma for all pixels and images.

    `variance` is 'learned' (a parameter); 'batch_optimal': training takes the sigma that maximises
    the likelihood of the batch at hand (Rybkin et al. 2021, arXiv:2006.13202), and the parameter is
    set to it after each update, so that evaluation has a fixed sigma; or 'fixed' to `std`, which
    makes the distortion a squared error over 2 std^2.
    """

    num_channels: int
    variance: str = "learned"
    std: float = 1.0
    binarize = False
    is_discrete = False

    @property
    def has_log_std(self) -> bool:
        return self.variance != "fixed"

    @property
    def num_outputs(self) -> int:
        return self.num_channels + int(self.has_log_std)

    def _parameters(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not self.has_log_std:
            return jax.nn.sigmoid(outputs), jnp.log(self.std)
        return jax.nn.sigmoid(outputs[..., :-1]), self.log_std(outputs[..., -1:])

    def log_std(self, raw: jax.Array) -> jax.Array:
        """log sigma of the learned parameter, never below MIN_GAUSSIAN_LOG_STD."""
        return soft_floor(raw, MIN_GAUSSIAN_LOG_STD)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        mean, log_std = self._parameters(outputs)
        return sum_event(normal_log_prob(x, mean, jnp.broadcast_to(log_std, mean.shape)))

    def batch_optimal_log_std(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """The raw log_std output whose sigma^2 is the mean squared error of the batch; a scalar.

        Held constant under differentiation: at the optimum d/d sigma is 0.
        """
        mean, _ = self._parameters(outputs)
        log_std = 0.5 * jnp.log(jnp.mean((x - mean) ** 2))
        above = jnp.maximum(log_std - MIN_GAUSSIAN_LOG_STD, 1e-3)
        # The inverse of the soft floor: log(expm1(a)) = a + log(1 - exp(-a)).
        raw = MIN_GAUSSIAN_LOG_STD + above + jnp.log(-jnp.expm1(-above))
        return jax.lax.stop_gradient(raw)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """A draw clipped to [0, 1]."""
        mean, log_std = self._parameters(outputs)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + jnp.exp(log_std) * noise, 0.0, 1.0)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return self._parameters(outputs)[0]
