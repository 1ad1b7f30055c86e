"""A diffusion model of the latents, with a lower bound on log p(z).

This is a variational diffusion model (VDM; Kingma et al. 2021, arXiv:2107.00630) in continuous
time:

    z_t = alpha(t) z + sigma(t) noise,   alpha^2 = sigmoid(-gamma(t)),   sigma^2 = sigmoid(gamma(t))

where gamma = log(sigma^2 / alpha^2) rises from `gamma_min` to `gamma_max`. The network predicts
v = alpha noise - sigma z (Salimans & Ho 2022, arXiv:2202.00512). A network that predicts 0 gives
the exact model N(0, I), so the network learns only the difference from it (like the mixed score of
LSGM: Vahdat et al. 2021, arXiv:2106.05931). The bound splits into a closed form and an estimate of
that difference:

    -log p(z) <= closed form at v = 0  +  1/2 E[alpha^2 (|v - v_predicted|^2 - |v|^2) / p(gamma)]

with the expectation over gamma ~ p and noise. The estimate is unbiased for every p, and has no
variance if the prior is N(0, I).
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.blocks import NUM_HEADS
from vae_jax.distributions import sum_event
from vae_jax.errors import InputError
from vae_jax.priors import networks, samplers
from vae_jax.priors.base import Prior, VAEParts, register
from vae_jax.priors.noise_schedule import NoiseSchedule
from vae_jax.registry import integer, one_of
from vae_jax.typing import PyTree

WEIGHTINGS = ("bound", "simple")
NUM_MAP_STEPS = 50  # steps of Heun's method between latents and noise


@register(
    "diffusion",
    widths=networks.WIDTHS,
    num_blocks=networks.NUM_BLOCKS,
    attention_resolutions=networks.ATTENTION_RESOLUTIONS,
    weighting=one_of(WEIGHTINGS),
    sampler=one_of(samplers.REGISTRY),
    num_sampling_steps=integer(1, 10_000),
)
class Diffusion(Prior):
    """A diffusion model of the latents.

    Attributes:
      network: (z_t [B, *latent_shape], gamma [B]) -> predicted v [B, *latent_shape]; 0 at first.
      gamma_min: lowest noise level. The prior is as smooth as N(0, exp(gamma_min)), whose variance
        must be far below those of the posteriors.
      gamma_max: highest noise level, at which nothing of z may be left.
      weighting: weighting of noise levels in training: 'bound', or 'simple', that of DDPM (Ho et
        al. 2020, arXiv:2006.11239) on a cosine schedule, which gives less weight to the finest
        noise. `log_prob` is the bound in both cases.
      num_draws: number of noise levels per row over which `log_prob` averages.
      sampler: one of `samplers.names()`.
      num_sampling_steps: number of steps of the sampler.
    """

    network: nn.Module
    gamma_min: float = -10.0
    gamma_max: float = 8.0
    weighting: str = "bound"
    num_draws: int = 8
    sampler: str = "ddim"
    num_sampling_steps: int = 50
    standardised = True
    is_exact = False
    samples_in_steps = True
    has_noise_map = True

    @classmethod
    def create(
        cls,
        vae: VAEParts,
        widths: tuple[int, ...] = (64,),
        num_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (),
        **options: Any,
    ) -> Self:
        """As in `Prior`; vectors need the first of the widths only."""
        network: nn.Module = networks.MLP(widths[0], num_blocks, vae.dtype)
        if len(vae.latent_shape) > 1:
            network = networks.UNet(widths, num_blocks, attention_resolutions, vae.dtype)
        return cls(vae.latent_shape, network, **options)

    @classmethod
    def check(cls, latent_shape: tuple[int, ...], options: Mapping[str, Any]) -> None:
        if len(latent_shape) == 1:
            return
        widths = options.get("widths", (64,))
        factor = 2 ** (len(widths) - 1)
        if any(n % factor for n in latent_shape[:2]):
            raise InputError(
                f"prior.widths = {widths} halves the latent grid {latent_shape[:2]} "
                f"{len(widths) - 1} times, so its sides must be multiples of {factor}: use fewer "
                "widths."
            )
        levels = {latent_shape[0] // 2**i: width for i, width in enumerate(widths)}
        attention_resolutions = options.get("attention_resolutions", ())
        for height in attention_resolutions:
            if height not in levels or levels[height] % NUM_HEADS:
                raise InputError(
                    f"prior.attention_resolutions = {attention_resolutions} must be heights of "
                    f"levels whose width is a multiple of {NUM_HEADS}: choose from "
                    f"(height: width) {levels}."
                )

    @classmethod
    def gives_bound(cls, options: Mapping[str, Any]) -> bool:
        return options.get("weighting", "bound") == "bound"

    def setup(self) -> None:
        self.schedule = NoiseSchedule(self.gamma_min, self.gamma_max)

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Returns an unbiased estimate of the lower bound on log p(z), [B]; needs `keys`."""
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
        # Even over the batch with one common offset: less variance than independent times (VDM).
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
        """Returns noise levels, weighted errors of the network, and these minus those of N(0, I).

        Args:
          z: latents, [B, *latent_shape].
          t: times, [B].
          noise: N(0, I), [B, *latent_shape].

        Returns:
          Three arrays [B].
        """
        gamma = self.schedule.gamma(t)
        alpha, sigma = samplers.alpha_sigma(gamma.reshape(-1, *[1] * (z.ndim - 1)))
        v = alpha * noise - sigma * z
        predicted = self.network(alpha * z + sigma * noise, gamma)
        weight = 0.5 * jax.nn.sigmoid(-gamma)
        weight /= jax.lax.stop_gradient(self.schedule.density(gamma))
        difference = weight * sum_event(predicted * (predicted - 2.0 * v))
        return gamma, weight * sum_event((v - predicted) ** 2), difference

    def _base_log_prob(self, z: jax.Array) -> jax.Array:
        """Returns the bound, in closed form, for a network that predicts 0, [B].

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
        """Returns noise levels in equal steps of gamma, from the highest to the lowest.

        Equal steps of log(alpha^2 / sigma^2) are those of DPM-Solver (Lu et al. 2022,
        arXiv:2206.00927). The learned schedule would not do: its levels are dense where they
        contribute most to the bound, and sparse where a sampler removes most of the noise.
        """
        return jnp.linspace(self.gamma_max, self.gamma_min, num_steps + 1)

    def _predict_v(self) -> samplers.PredictV:
        """Returns the network with its parameters as a compiled function."""
        network, variables = self.network.clone(parent=None), self.network.variables
        return functools.partial(apply_network, network, variables)


@functools.partial(jax.jit, static_argnums=0)
def apply_network(
    network: nn.Module, variables: PyTree, z: jax.Array, gamma: jax.Array
) -> jax.Array:
    """Returns v predicted at one noise level; compiled once per network and shape."""
    v: Any = network.apply(variables, z, jnp.full(z.shape[:1], gamma))
    return v
