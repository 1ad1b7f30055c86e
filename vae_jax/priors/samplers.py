"""Samplers: from noise to latents in a given number of steps, with a network that predicts v.

z_t = alpha z + sigma noise with alpha^2 = sigmoid(-gamma) and v = alpha noise - sigma z, so that
z = alpha z_t - sigma v and noise = sigma z_t + alpha v.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.registry import Registry

PredictV = Callable[[jax.Array, jax.Array], jax.Array]  # (z_t [B, ...], gamma scalar) -> v
# (predict_v, z_t [B, ...], its gamma, the next gamma, noise like z_t or None) -> z at the next one.
Step = Callable[[PredictV, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


class Sampler(NamedTuple):
    """A step, and whether it needs N(0, I) noise."""

    step: Step
    draws_noise: bool


REGISTRY: Registry[Sampler] = Registry("prior", key="sampler")
names = REGISTRY.names


def register(name: str, draws_noise: bool = False) -> Callable[[Step], Step]:
    """Returns a decorator that registers a step as the sampler `name`."""

    def add(step: Step) -> Step:
        REGISTRY.register(name)(Sampler(step, draws_noise))
        return step

    return add


def alpha_sigma(gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (alpha, sigma) of noise levels."""
    return jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))


@register("ancestral", draws_noise=True)
def _ancestral_step(
    predict_v: PredictV,
    z: jax.Array,
    gamma: jax.Array,
    next_gamma: jax.Array,
    noise: jax.Array | None,
) -> jax.Array:
    """Draws from the model's own transition (Kingma et al. 2021, arXiv:2107.00630, eq. 33)."""
    assert noise is not None
    alpha, sigma = alpha_sigma(gamma)
    next_alpha, next_sigma = alpha_sigma(next_gamma)
    predicted_noise = sigma * z + alpha * predict_v(z, gamma)
    c = -jnp.expm1(next_gamma - gamma)
    mean = next_alpha / alpha * (z - c * sigma * predicted_noise)
    return mean + next_sigma * jnp.sqrt(c) * noise


@register("ddim")
def _ddim_step(
    predict_v: PredictV,
    z: jax.Array,
    gamma: jax.Array,
    next_gamma: jax.Array,
    noise: jax.Array | None,
) -> jax.Array:
    """Takes the deterministic step of DDIM (Song et al. 2021, arXiv:2010.02502).

    It is a rotation in the plane of (z_t, v).
    """
    del noise
    alpha, sigma = alpha_sigma(gamma)
    next_alpha, next_sigma = alpha_sigma(next_gamma)
    v = predict_v(z, gamma)
    return next_alpha * (alpha * z - sigma * v) + next_sigma * (sigma * z + alpha * v)


@register("heun")
def _heun_step(
    predict_v: PredictV,
    z: jax.Array,
    gamma: jax.Array,
    next_gamma: jax.Array,
    noise: jax.Array | None,
) -> jax.Array:
    """Takes a step of Heun's second-order method (Karras et al. 2022, arXiv:2206.00364).

    It solves d(z / alpha) / d(sigma / alpha) = noise.
    """
    del noise
    alpha, sigma = alpha_sigma(gamma)
    next_alpha, next_sigma = alpha_sigma(next_gamma)
    step = next_sigma / next_alpha - sigma / alpha
    slope = sigma * z + alpha * predict_v(z, gamma)
    euler = next_alpha * (z / alpha + step * slope)
    next_slope = next_sigma * euler + next_alpha * predict_v(euler, next_gamma)
    return next_alpha * (z / alpha + 0.5 * step * (slope + next_slope))


def sample(
    name: str,
    predict_v: PredictV,
    key: jax.Array,
    shape: tuple[int, ...],
    gammas: jax.Array,
    temperature: float = 1.0,
) -> jax.Array:
    """Draws latents of a shape [B, ...] in a loop that must not be jitted as a whole.

    As one program it would take minutes to compile, and inside a `lax.scan` convolutions run many
    times slower on the CPU backend (jax-ml/jax#12868).

    Args:
      name: one of `names()`.
      predict_v: network that predicts v.
      key: random key of all noise.
      shape: shape of the result.
      gammas: noise levels from the highest to the lowest, [steps + 1].
      temperature: factor on all noise.
    """
    step, draws_noise = REGISTRY[name]
    start_key, step_key = jax.random.split(key)
    z = temperature * jax.random.normal(start_key, shape)
    for i in range(len(gammas) - 1):
        noise = None
        if draws_noise:
            noise = temperature * jax.random.normal(jax.random.fold_in(step_key, i), shape)
        z = step(predict_v, z, gammas[i], gammas[i + 1], noise)
    return z / alpha_sigma(gammas[-1])[0]


def from_noise(predict_v: PredictV, noise: jax.Array, gammas: jax.Array) -> jax.Array:
    """Returns the latents that Heun's method reaches from given noise, both [B, ...].

    Like `sample`, but without a draw: `gammas` has the same meaning, and the loop must not be
    jitted as a whole either.
    """
    z = noise
    for i in range(len(gammas) - 1):
        z = _heun_step(predict_v, z, gammas[i], gammas[i + 1], None)
    return z / alpha_sigma(gammas[-1])[0]


def to_noise(predict_v: PredictV, z: jax.Array, gammas: jax.Array) -> jax.Array:
    """Returns the noise from which `from_noise` makes z, by following the same curve backwards.

    The curve is the probability flow (Song et al. 2021, arXiv:2011.13456). The two functions would
    be exact inverses if their steps did not deviate from it.
    """
    z = alpha_sigma(gammas[-1])[0] * z
    for i in reversed(range(len(gammas) - 1)):
        z = _heun_step(predict_v, z, gammas[i + 1], gammas[i], None)
    return z
