"""A diffusion model of the latents, with a lower bound on log p(z).

Variational diffusion models (Kingma et al. 2021, arXiv:2107.00630) in continuous time:

    z_t = alpha(t) z + sigma(t) noise,   alpha^2 = sigmoid(-gamma(t)),   sigma^2 = sigmoid(gamma(t))

where gamma = log(sigma^2 / alpha^2) rises from `gamma_min` to `gamma_max`. The network predicts
v = alpha noise - sigma z (Salimans & Ho 2022, arXiv:2202.00512). Predicting 0 is the exact model
N(0, I), so the network learns what differs from it (as LSGM's mixed score does: Vahdat et al. 2021,
arXiv:2106.05931), and the bound splits into a closed form and an estimate of that difference:

    -log p(z) <= closed form at v = 0  +  1/2 E[alpha^2 (|v - v_predicted|^2 - |v|^2) / p(gamma)]

with the expectation over gamma ~ p and noise: unbiased for every p, and free of noise where the
prior is N(0, I).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.distributions import sum_event
from vae_jax.priors import samplers
from vae_jax.priors.base import Prior

WEIGHTINGS = ("bound", "simple")
NUM_BINS = 50  # of the noise schedule
NUM_MAP_STEPS = 50  # of Heun's method between latents and noise
UNIFORM_SHARE = 0.2  # of it, so that no noise level is forgotten and 1 / p(gamma) stays small


class NoiseSchedule(nn.Module):
    """gamma(t), learned and monotone: the quantile function of a density p over noise levels.

    p is a histogram of equal bins. The bound holds for every p; its variance is least where p is
    proportional to what a noise level contributes, which `fit` draws it towards. VDM learns a
    monotone network to the same end, and the end points too; these are fixed here.
    """

    gamma_min: float
    gamma_max: float

    def setup(self):
        self.logits = self.param("logits", nn.initializers.zeros, (NUM_BINS,))

    def _probabilities(self) -> jax.Array:
        return (1.0 - UNIFORM_SHARE) * nn.softmax(self.logits) + UNIFORM_SHARE / NUM_BINS

    @property
    def _bin_width(self) -> float:
        return (self.gamma_max - self.gamma_min) / NUM_BINS

    def gamma(self, t: jax.Array) -> jax.Array:
        """Noise levels at times t in [0, 1]; no gradient flows through them."""
        edges = jnp.concatenate([jnp.zeros(1), jnp.cumsum(self._probabilities())])
        levels = jnp.linspace(self.gamma_min, self.gamma_max, NUM_BINS + 1)
        return jax.lax.stop_gradient(jnp.interp(t, edges / edges[-1], levels))

    def density(self, gamma: jax.Array) -> jax.Array:
        """p(gamma) = dt / dgamma."""
        bins = ((gamma - self.gamma_min) / self._bin_width).astype(jnp.int32)
        return self._probabilities()[jnp.clip(bins, 0, NUM_BINS - 1)] / self._bin_width

    def fit(self, gamma: jax.Array, contributions: jax.Array) -> jax.Array:
        """A term of value 0 whose gradient draws p towards the (non-negative) contributions.

        The gradient is that of the cross-entropy between the contributions' share of each noise
        level and p. It is scaled to be free of the size of the contributions.

        Args:
          gamma: noise levels, [B].
          contributions: of each to the bound, drawn with density p, [B].
        """
        weights = jax.lax.stop_gradient(contributions / (contributions.mean() + 1e-12))
        cross_entropy = -weights * jnp.log(self.density(gamma))
        return cross_entropy - jax.lax.stop_gradient(cross_entropy)


class Diffusion(Prior):
    """Attributes:
    network: (z_t [B, *latent_shape], gamma [B]) -> predicted v [B, *latent_shape]; 0 at first.
    gamma_min, gamma_max: ends of the noise schedule. Below the first the prior is as smooth as
      N(0, exp(gamma_min)), which has to be far below the posteriors' variances; at the second
      nothing of z must be left.
    weighting: of noise levels in training: 'bound', or 'simple', the one of DDPM (Ho et al. 2020,
      arXiv:2006.11239) on a cosine schedule, which cares less for the finest noise. `log_prob` is
      the bound either way.
    num_draws: noise levels per row that `log_prob` averages over.
    sampler: one of `samplers.SAMPLERS`.
    num_sampling_steps: of the sampler.
    """

    network: nn.Module
    gamma_min: float = -10.0
    gamma_max: float = 8.0
    weighting: str = "bound"
    num_draws: int = 8
    sampler: str = "ddim"
    num_sampling_steps: int = 50
    is_exact = False
    samples_in_steps = True
    has_noise_map = True

    def setup(self):
        self.schedule = NoiseSchedule(self.gamma_min, self.gamma_max)

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        keys = jax.vmap(lambda key: jax.random.split(key, 1 + self.num_draws))(keys)  # [B, 1 + K]
        offset = jax.vmap(jax.random.uniform)(keys[:, 0])
        # One time in each of K equal parts of [0, 1].
        times = (offset[:, None] + jnp.arange(self.num_draws)) / self.num_draws
        noise_keys = keys[:, 1:].reshape(-1)
        noise = jax.vmap(lambda key: jax.random.normal(key, self.latent_shape))(noise_keys)
        repeated = jnp.repeat(z, self.num_draws, axis=0)
        _, _, difference = self._estimate(repeated, times.reshape(-1), noise)
        return self._base_log_prob(z) - difference.reshape(times.shape).mean(axis=1)

    def loss(self, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        time_key, noise_key = jax.random.split(key)
        # Evenly over the batch with one common offset: less variance than independent times (VDM).
        times = (jax.random.uniform(time_key) + jnp.arange(len(z)) / len(z)) % 1.0
        gamma, error, difference = self._estimate(z, times, jax.random.normal(noise_key, z.shape))
        learn_schedule = self.schedule.fit(gamma, jnp.abs(difference))
        log_prob = self._base_log_prob(z) - difference - learn_schedule
        if self.weighting == "bound":
            return -log_prob, log_prob
        return error / jnp.cosh(0.5 * gamma) + learn_schedule, log_prob

    def _estimate(
        self, z: jax.Array, t: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Noise level, weighted error of the network, and that minus the error of N(0, I), [B]."""
        gamma = self.schedule.gamma(t)
        alpha, sigma = samplers.alpha_sigma(_column(gamma, z.ndim))
        v = alpha * noise - sigma * z
        predicted = self.network(alpha * z + sigma * noise, gamma)
        weight = 0.5 * jax.nn.sigmoid(-gamma)
        weight /= jax.lax.stop_gradient(self.schedule.density(gamma))
        difference = weight * sum_event(predicted * (predicted - 2.0 * v))
        return gamma, weight * sum_event((v - predicted) ** 2), difference

    def _base_log_prob(self, z: jax.Array) -> jax.Array:
        """The bound in closed form where the network predicts 0, [B].

        It is log N(z; 0, I) up to terms of the order of sigma^2 at `gamma_min`.
        """
        num_dims = math.prod(self.latent_shape)
        alpha_squared = jax.nn.sigmoid(-self.gamma_min)
        constant = math.log(2.0 * math.pi) + 1.0 - alpha_squared - jnp.log(alpha_squared)
        return -0.5 * (alpha_squared * sum_event(z**2) + num_dims * constant)

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        shape = (num_samples, *self.latent_shape)
        gammas = self._levels(self.num_sampling_steps)
        return samplers.sample(self.sampler, self._predict_v(), key, shape, gammas, temperature)

    def to_noise(self, z: jax.Array) -> jax.Array:
        return samplers.to_noise(self._predict_v(), z, self._levels(NUM_MAP_STEPS))

    def from_noise(self, noise: jax.Array) -> jax.Array:
        return samplers.from_noise(self._predict_v(), noise, self._levels(NUM_MAP_STEPS))

    def _levels(self, num_steps: int) -> jax.Array:
        """Equal steps of log(alpha^2 / sigma^2) (DPM-Solver: Lu et al. 2022, arXiv:2206.00927).

        The schedule has its levels where the bound is won, and few where much noise is taken away.
        """
        return jnp.linspace(self.gamma_max, self.gamma_min, num_steps + 1)

    def _predict_v(self) -> samplers.PredictV:
        network, variables = self.network.clone(parent=None), self.network.variables
        return functools.partial(apply_network, network, variables)


@functools.partial(jax.jit, static_argnums=0)
def apply_network(network: nn.Module, variables, z: jax.Array, gamma: jax.Array) -> jax.Array:
    """Predicted v at one noise level; compiled once per network and shape."""
    return network.apply(variables, z, jnp.full(z.shape[:1], gamma))


def _column(values: jax.Array, ndim: int) -> jax.Array:
    """[B] -> [B, 1, ..., 1]."""
    return values.reshape(-1, *[1] * (ndim - 1))
