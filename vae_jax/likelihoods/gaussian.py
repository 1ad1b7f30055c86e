"""The Gaussian likelihood, with one standard deviation for all pixels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import normal_log_prob, sum_event
from vae_jax.likelihoods.base import Likelihood, register, soft_floor
from vae_jax.registry import number, one_of
from vae_jax.typing import PyTree

GAUSSIAN_VARIANCES = ("learned", "batch_optimal", "fixed")
MIN_GAUSSIAN_LOG_STD = -6.0  # soft floor, for pixels in [0, 1]


@register(
    "gaussian",
    gaussian_variance=one_of(GAUSSIAN_VARIANCES),
    gaussian_std=number(1e-6, 1e6),
)
@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
    """N(sigmoid(output), sigma^2) with one sigma for all pixels and images.

    Attributes:
      gaussian_variance: 'learned': sigma is a parameter. 'batch_optimal': training uses the sigma
        that maximises the likelihood of the current batch (Rybkin et al. 2021, arXiv:2006.13202)
        and sets the parameter to it after each update, so that evaluation has a fixed sigma.
        'fixed': sigma is `gaussian_std`, so that the distortion is a squared error over
        2 gaussian_std^2, up to a constant.
      gaussian_std: sigma of the variance 'fixed'.
    """

    gaussian_variance: str = "learned"
    gaussian_std: float = 1.0
    min_log_std = MIN_GAUSSIAN_LOG_STD

    @classmethod
    def needs_whole_batch(cls, options: Mapping[str, Any]) -> str:
        is_optimal = options.get("gaussian_variance") == "batch_optimal"
        return "likelihood.gaussian_variance" if is_optimal else ""

    @property
    def has_log_std(self) -> bool:
        return self.gaussian_variance != "fixed"

    @property
    def optimal_scale(self) -> bool:
        return self.gaussian_variance == "batch_optimal"

    @property
    def has_free_variance(self) -> bool:
        return not self.optimal_scale

    @property
    def num_outputs(self) -> int:
        return self.num_channels + int(self.has_log_std)

    def _parameters(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (mean [B, H, W, C], log sigma that broadcasts to it)."""
        if not self.has_log_std:
            return jax.nn.sigmoid(outputs), jnp.log(self.gaussian_std)
        return jax.nn.sigmoid(outputs[..., :-1]), self.log_std(outputs[..., -1:])

    def log_std(self, raw: jax.Array) -> jax.Array:
        """Returns log sigma for the raw parameter, never below MIN_GAUSSIAN_LOG_STD."""
        return soft_floor(raw, MIN_GAUSSIAN_LOG_STD)

    def std(self, params: PyTree) -> float | None:
        if not self.has_log_std:
            return float(self.gaussian_std)
        return float(np.exp(self.log_std(params["decoder"]["log_std"])))

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        mean, log_std = self._parameters(outputs)
        return sum_event(normal_log_prob(x, mean, jnp.broadcast_to(log_std, mean.shape)))

    def batch_optimal_log_std(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the raw log_std whose sigma^2 is the mean squared error of the batch, a scalar.

        It is held constant under differentiation: at the optimum the derivative by sigma is 0.
        """
        mean, _ = self._parameters(outputs)
        log_std = 0.5 * jnp.log(jnp.mean((x - mean) ** 2))
        above = jnp.maximum(log_std - MIN_GAUSSIAN_LOG_STD, 1e-3)
        # Inverse of the soft floor: log(expm1(a)) = a + log(1 - exp(-a)).
        raw = MIN_GAUSSIAN_LOG_STD + above + jnp.log(-jnp.expm1(-above))
        return jax.lax.stop_gradient(raw)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws images and clips them to [0, 1]."""
        mean, log_std = self._parameters(outputs)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + jnp.exp(log_std) * noise, 0.0, 1.0)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return self._parameters(outputs)[0]
