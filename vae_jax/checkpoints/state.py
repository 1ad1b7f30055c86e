"""The state of a training run: what a step updates and a checkpoint stores."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vae_jax.models import VAE
from vae_jax.typing import PyTree


@flax.struct.dataclass
class TrainState:
    """Everything that changes during training.

    Attributes:
      step: number of updates attempted so far, int32 scalar; skipped updates count.
      params: model parameters, float32.
      opt_state: optimiser state, which includes the counts of skipped updates.
      ema_params: exponential moving average of `params`.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    ema_params: PyTree


def create_train_state(
    model: VAE,
    tx: optax.GradientTransformation,
    init_key: jax.Array,
    trained: Callable[[PyTree], PyTree] = lambda params: params,
) -> TrainState:
    """Returns a freshly initialised state, in which `ema_params` are a copy of `params`.

    Args:
      model: the VAE with its prior.
      tx: optimiser.
      init_key: random key of the initialisation.
      trained: function from the parameters to those that are trained, which the optimiser covers.
    """
    params = model.init(init_key, jnp.zeros((1, *model.image_shape)))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(trained(params)),
        # A real copy: the train step donates its input, and a buffer cannot be donated twice.
        ema_params=jax.tree.map(jnp.copy, params),
    )
