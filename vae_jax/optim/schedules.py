"""Schedules: KL weight and learning rate as functions of the step.

Every schedule accepts any step, from 0 to far beyond the end of training, and a warm-up of zero
steps means "at full value from step 0". (`optax.linear_schedule` with zero transition steps stays
at its initial value for ever, which would silently train with a KL weight of 0.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vae_jax.errors import InputError
from vae_jax.registry import one_of

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

KL_SCHEDULES = ("constant", "linear", "cosine", "sigmoid", "cyclical")
LEARNING_RATE_DECAYS = ("constant", "cosine")


def _fraction(step: jax.typing.ArrayLike, num_steps: int) -> jax.Array:
    """Returns step / num_steps, clipped to [0, 1]; 1 for every step if `num_steps` is 0."""
    step = jnp.asarray(step, jnp.float32)
    if num_steps == 0:
        return jnp.ones_like(step)
    return jnp.clip(step / num_steps, 0.0, 1.0)


def check_kl_schedule(
    name: str, weight: float, warmup_steps: int, num_cycles: int, ramp_fraction: float
) -> None:
    """Raises an InputError as `make_kl_schedule` does."""
    one_of(KL_SCHEDULES).check("kl.schedule", name)
    if not weight >= 0 or warmup_steps < 0:  # `not >=` refuses NaN as well
        raise InputError(
            f"kl.weight = {weight} and kl.warmup_steps = {warmup_steps} must not be negative."
        )
    if num_cycles < 1 or not 0 < ramp_fraction <= 1:
        raise InputError(
            f"kl.num_cycles = {num_cycles} must be at least 1 and kl.ramp_fraction = "
            f"{ramp_fraction} in (0, 1]."
        )


def make_kl_schedule(
    name: str, weight: float, warmup_steps: int, num_cycles: int = 4, ramp_fraction: float = 0.5
) -> Schedule:
    """Returns step -> KL weight, a float32 scalar in [0, weight].

    Args:
      name: 'constant'; 'linear', 'cosine' or 'sigmoid' (rise from 0 to `weight` over
        `warmup_steps`); 'cyclical' (Fu et al. 2019, arXiv:1903.10145: `num_cycles` equal cycles
        within `warmup_steps`, each rising linearly during its first `ramp_fraction` and holding
        `weight` for the rest).
      weight: final weight; the beta of a beta-VAE (Higgins et al. 2017).
      warmup_steps: steps until the weight stays at `weight`; 0: from step 0 on.
      num_cycles: number of cycles of the schedule 'cyclical'.
      ramp_fraction: fraction of each cycle during which the weight rises.

    Raises:
      InputError: unknown name, or a number outside its range.
    """
    check_kl_schedule(name, weight, warmup_steps, num_cycles, ramp_fraction)

    def rise(t: jax.Array) -> jax.Array:
        if name == "constant":
            return jnp.ones_like(t)
        if name == "cosine":
            return 0.5 * (1.0 - jnp.cos(jnp.pi * t))
        if name == "sigmoid":
            # The logistic curve on [-6, 6], stretched so that it starts at 0 and ends at 1 exactly.
            low, high = jax.nn.sigmoid(-6.0), jax.nn.sigmoid(6.0)
            return (jax.nn.sigmoid(12.0 * t - 6.0) - low) / (high - low)
        return t

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        if name != "cyclical" or warmup_steps == 0:
            return weight * rise(_fraction(step, warmup_steps))
        # Modulo of whole numbers: with float32 fractions, the start of a cycle rounds to its end.
        step = jnp.minimum(jnp.asarray(step, jnp.float32), warmup_steps)
        within = (step * num_cycles) % warmup_steps / warmup_steps
        return weight * jnp.where(
            step < warmup_steps, jnp.minimum(within / ramp_fraction, 1.0), 1.0
        )

    return schedule


def kl_warmup_end(name: str, weight: float, warmup_steps: int) -> int:
    """Returns the step from which the KL weight of `make_kl_schedule` stays at its final value."""
    return 0 if name == "constant" or weight == 0 else warmup_steps


def check_learning_rate_schedule(
    peak: float, warmup_steps: int, decay: str, num_steps: int, final_fraction: float
) -> None:
    """Raises an InputError as `make_learning_rate_schedule` does."""
    one_of(LEARNING_RATE_DECAYS).check("optim.decay", decay)
    if peak <= 0 or not 0 <= final_fraction <= 1:
        raise InputError(
            f"optim.learning_rate = {peak} must be positive and optim.final_fraction = "
            f"{final_fraction} in [0, 1]."
        )
    if not 0 <= warmup_steps <= num_steps:
        raise InputError(
            f"optim.warmup_steps = {warmup_steps} must lie between 0 and {num_steps}, the end of "
            "the decay (train.num_steps, unless optim.decay_steps is given)."
        )


def make_learning_rate_schedule(
    peak: float, warmup_steps: int, decay: str, num_steps: int, final_fraction: float = 0.0
) -> Schedule:
    """Returns step -> learning rate, a float32 scalar.

    The rate rises linearly from peak / warmup_steps at step 0 (an update with rate 0 would be
    wasted) to `peak`. Then it is constant, or falls as a half cosine that reaches
    `final_fraction * peak` at `num_steps` and stays there.

    Args:
      peak: highest learning rate.
      warmup_steps: steps of the linear rise; 0: none.
      decay: 'constant' or 'cosine'.
      num_steps: number of training steps.
      final_fraction: final learning rate of the half cosine, as a fraction of `peak`.

    Raises:
      InputError: unknown decay, or a number outside its range.
    """
    check_learning_rate_schedule(peak, warmup_steps, decay, num_steps, final_fraction)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = _fraction(step + 1.0, warmup_steps)
        if decay == "constant":
            return peak * warmup
        t = _fraction(jnp.maximum(step - warmup_steps, 0.0), num_steps - warmup_steps)
        t = jnp.where(step < warmup_steps, 0.0, t)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * t))
        return peak * warmup * (final_fraction + (1.0 - final_fraction) * cosine)

    return schedule
