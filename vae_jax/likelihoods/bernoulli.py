"""The Bernoulli likelihood of binary images, and the continuous Bernoulli on [0, 1]."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions import sum_event
from vae_jax.likelihoods.base import Likelihood, register
from vae_jax.registry import flag


@register("bernoulli", binarize=flag())
@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Bernoulli with logits: a mass function over {0, 1}.

    With `binarize`, the images are binary: each pixel is 1 with a probability equal to its grey
    value, drawn anew whenever the image is used ("dynamic binarisation", Salakhutdinov & Murray
    2008). Without it, grey values are soft targets: log_prob is E_b~Bernoulli(x)[log p(b)], a
    cross-entropy whose best value is minus the entropy of Bernoulli(x), not 0.
    """

    binarize: bool = False
    grey_is_probability = True

    @property
    def num_outputs(self) -> int:
        return self.num_channels

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        # x log s(l) + (1 - x) log(1 - s(l)) without ever forming s(l), which saturates in float32.
        return sum_event(x * outputs - jax.nn.softplus(outputs))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, self.mean(outputs)).astype(jnp.float32)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(outputs)


@register("continuous_bernoulli")
class ContinuousBernoulli(Likelihood):
    """Continuous Bernoulli with logits l (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845).

    Its density on [0, 1] is proportional to s(l)^x (1 - s(l))^(1 - x), where s is the sigmoid, with
    the normaliser l / tanh(l / 2).
    """

    @property
    def num_outputs(self) -> int:
        return self.num_channels

    @staticmethod
    def _split_at_zero(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (which logits are near 0, logits with those replaced by 1).

        Near 0 the closed forms become 0 / 0, so callers use a series there.
        """
        near_zero = jnp.abs(logits) < 0.1
        return near_zero, jnp.where(near_zero, 1.0, logits)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        near_zero, safe = self._split_at_zero(outputs)
        # Taylor series of log(l / tanh(l / 2)); the next term is below 1e-9 at |l| = 0.1.
        series = jnp.log(2.0) + outputs**2 / 12.0 - 7.0 * outputs**4 / 1440.0
        exact = jnp.log(jnp.abs(safe)) - jnp.log(jnp.abs(jnp.tanh(0.5 * safe)))
        log_normaliser = jnp.where(near_zero, series, exact)
        return sum_event(x * outputs - jax.nn.softplus(outputs) + log_normaliser)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, outputs.shape)
        near_zero, safe = self._split_at_zero(outputs)
        # Inverse CDF at -|l|, mirrored for l > 0, because exp(|l|) could overflow.
        negative = -jnp.abs(safe)
        x = jnp.log1p(uniform * jnp.expm1(negative)) / negative
        x = jnp.clip(jnp.where(safe > 0, 1.0 - x, x), 0.0, 1.0)  # rounding may pass the ends
        # Near 0 the inverse CDF to first order in l.
        return jnp.where(near_zero, uniform + 0.5 * outputs * uniform * (1.0 - uniform), x)

    def mean(self, outputs: jax.Array) -> jax.Array:
        near_zero, safe = self._split_at_zero(outputs)
        series = 0.5 + outputs / 12.0 - outputs**3 / 720.0
        return jnp.where(
            near_zero, series, jax.nn.sigmoid(safe) / jnp.tanh(0.5 * safe) - 1.0 / safe
        )
