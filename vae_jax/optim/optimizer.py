"""The optimiser chain (skip non-finite gradients, clip, adam) and the EMA of the parameters."""

import jax
import jax.numpy as jnp
import optax

from vae_jax.errors import InputError
from vae_jax.optim.schedules import Schedule
from vae_jax.registry import one_of
from vae_jax.typing import PyTree

OPTIMIZERS = ("adam", "adamw", "adamax")

# optax.apply_if_finite lets a non-finite update through after this many skipped ones in a row. Here
# it never does: training stops first (see `training`).
_NEVER = 2**31 - 1


def check_optimizer(name: str, weight_decay: float, clip_norm: float) -> None:
    """Raises an InputError as `create_optimizer` does."""
    one_of(OPTIMIZERS).check("optim.name", name)
    if weight_decay and name != "adamw":
        raise InputError(
            f"optim.weight_decay = {weight_decay} has no effect with optim.name = {name!r}: use "
            "'adamw', or set it to 0."
        )
    if weight_decay < 0:
        raise InputError(f"optim.weight_decay = {weight_decay} must not be negative (0: none).")
    if clip_norm < 0:
        raise InputError(f"optim.clip_norm = {clip_norm} must not be negative (0: no clipping).")


def create_optimizer(
    name: str,
    learning_rate: Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns an optimiser that skips an update with a non-finite gradient, moments included.

    Args:
      name: one of OPTIMIZERS.
      learning_rate: learning rate as a function of the number of updates applied so far.
      b1, b2: decay rates of the first and second moment.
      weight_decay: weight decay of adamw, for all parameters with at least two axes (no biases, no
        scales).
      clip_norm: global norm to which larger gradients are scaled; 0: no clipping.

    Raises:
      InputError: unknown name, a negative number, or weight decay for an optimiser without it.
    """
    check_optimizer(name, weight_decay, clip_norm)
    if name == "adamw":
        optimizer = optax.adamw(
            learning_rate,
            b1=b1,
            b2=b2,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
        )
    else:
        optimizer = getattr(optax, name)(learning_rate, b1=b1, b2=b2)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.apply_if_finite(optax.chain(clip, optimizer), max_consecutive_errors=_NEVER)


def num_skipped(opt_state: optax.ApplyIfFiniteState) -> tuple[jax.Array, jax.Array]:
    """Returns (updates skipped in a row up to now, updates skipped in all), int32 scalars."""
    return opt_state.notfinite_count, opt_state.total_notfinite


def update_ema(
    ema_params: PyTree, params: PyTree, step: jax.Array, decay: float, warmup: bool = True
) -> PyTree:
    """Returns the exponential moving average of the parameters after update number `step`.

    With `warmup` the decay is min(decay, (1 + step) / (10 + step)), so that the average follows a
    young model closely instead of remembering its initialisation for 1 / (1 - decay) steps.

    Args:
      ema_params: average before the update.
      params: parameters after the update.
      step: number of the update, from 0.
      decay: weight of the previous average.
      warmup: whether the first steps use a smaller decay.
    """
    step = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else decay
    # In this form, rounding leaves the average of a constant parameter unchanged.
    return jax.tree.map(lambda e, p: e + (1.0 - d) * (p - e), ema_params, params)
