"""All that a training run is: what checkpoints hold and steps pass on."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vae_jax.models import VAE


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: updates attempted so far, int32 scalar (skipped ones count).
    params: of the model, float32.
    opt_state: of the optimiser, with the counts of skipped updates.
    ema_params: exponential moving average of `params`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema_params: Any


def trained_part(params, frozen_vae: bool):
    """What of the model's parameters is trained."""
    return params["prior"] if frozen_vae else params


def create_train_state(
    model: VAE,
    tx: optax.GradientTransformation,
    init_key: jax.Array,
    frozen_vae: bool = False,
) -> TrainState:
    """A freshly initialised state; `ema_params` start as a copy of `params`.

    With `frozen_vae` the optimiser has a state for the prior's parameters only.
    """
    params = model.init(init_key, jnp.zeros((1, *model.image_shape)))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trained_part(params, frozen_vae)),
        # A true copy: the train step donates its input, and one buffer cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, params),
    )
