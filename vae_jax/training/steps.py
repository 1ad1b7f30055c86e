"""The training step: gradients, update, moving average and metrics, jitted over several steps.

`make_train_step` takes plain arguments, `create_train_step` reads them from a configuration, and
`jit_train_steps` compiles the step for a mesh.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vae_jax import experiment, optim
from vae_jax.checkpoints.state import TrainState, trained_part
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.objectives.losses import (
    Batch,
    make_loss_fn,
    make_prior_loss_fn,
    prepare_batch,
    split_batch,
    to_unit_interval,
)
from vae_jax.optim.schedules import Schedule
from vae_jax.runtime import sharding
from vae_jax.typing import ImageShape, PyTree


def _with_log_std(params: PyTree, log_std: jax.Array, skip: jax.Array) -> PyTree:
    """Returns `params` with this log_std of the likelihood, unless the update is skipped."""
    new = jnp.where(skip, params["decoder"]["log_std"], log_std)
    return {**params, "decoder": {**params["decoder"], "log_std": new}}


def make_gradient_fn(
    loss_fn: Callable[..., Any], frozen_vae: bool, num_parts: int = 1
) -> Callable[..., Any]:
    """Makes the function that computes loss and gradients of a batch.

    With `num_parts` above 1 it accumulates gradients: the results are means over equal parts of the
    batch, so the loss must be a mean over images. A GPU holds one part in memory at a time. On the
    CPU, where loops around convolutions are slow (see `jit_train_steps`), the loop is unrolled and
    saves no memory.

    Args:
      loss_fn: as `make_loss_fn` returns it.
      frozen_vae: whether to differentiate with respect to the parameters of the prior only.
      num_parts: number of parts of a batch.

    Returns:
      (params, batch, kl_weight) -> ((loss, (metrics, log_std or None)), gradients).
    """

    def gradient_fn(params: PyTree, batch: Batch, kl_weight: jax.Array) -> Any:
        def compute_loss(part: PyTree) -> Any:
            return loss_fn(_with_trained_part(params, part, frozen_vae), batch, kl_weight)

        part = trained_part(params, frozen_vae)
        return jax.value_and_grad(compute_loss, has_aux=True)(part)

    def accumulated_gradient_fn(params: PyTree, batch: Batch, kl_weight: jax.Array) -> Any:
        def add(total: PyTree, part: Batch) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, gradient_fn(params, part, kl_weight)), None

        parts = split_batch(batch, num_parts)
        shapes = jax.eval_shape(gradient_fn, params, jax.tree.map(lambda p: p[0], parts), kl_weight)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parts, unroll=jax.default_backend() == "cpu")
        return jax.tree.map(lambda t: t / num_parts, total)

    return gradient_fn if num_parts == 1 else accumulated_gradient_fn


def _with_trained_part(params: PyTree, part: PyTree, frozen_vae: bool) -> PyTree:
    """Returns `params` with the trained parameters `part`; see `trained_part`."""
    return {**params, "prior": part} if frozen_vae else part


def make_train_step(
    model: VAE,
    likelihood: Likelihood,
    tx: optax.GradientTransformation,
    kl_schedule: Schedule,
    learning_rate: Schedule,
    free_bits: float = 0.0,
    distortion_weight: float = 1.0,
    ema_decay: float = 0.999,
    ema_warmup: bool = True,
    flip: bool = False,
    frozen_vae: bool = False,
    accumulation_steps: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the function that does one update; it is not jitted.

    Args:
      model: the VAE with its prior.
      likelihood: p(x | z).
      tx: optimiser.
      kl_schedule: function from a step to its KL weight.
      learning_rate: function from a step to its learning rate, for the metrics.
      free_bits: nats per latent dimension that cost nothing.
      distortion_weight: weight of the distortion in the loss.
      ema_decay: decay of the moving average of the parameters.
      ema_warmup: whether the average starts with a smaller decay.
      flip: whether images are mirrored at random.
      frozen_vae: whether only the prior is trained, with `make_prior_loss_fn`.
      accumulation_steps: parts of a batch whose gradients are accumulated.

    Returns:
      (state, x, key) -> (state, metrics). x is [B, H, W, C] in [0, 1]; with `frozen_vae` it may be
      the posteriors of the images, as `choose_flipped` takes them. `key` is the training key of the
      run; the step folds in its own number, so that resuming needs no stored key. The metrics are
      float32 scalars that describe this batch before the update, and the update.
    """
    batch_optimal = likelihood.optimal_scale
    if frozen_vae:
        loss_fn = make_prior_loss_fn(model)
    else:
        loss_fn = make_loss_fn(model, likelihood, free_bits, distortion_weight)
    gradient_fn = make_gradient_fn(loss_fn, frozen_vae, accumulation_steps)

    def train_step(
        state: TrainState, x: jax.Array | DiagonalGaussian, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = prepare_batch(model, likelihood, flip, x, key, state.step)
        kl_weight = kl_schedule(state.step)
        (loss, (bound_metrics, log_std)), grads = gradient_fn(state.params, batch, kl_weight)
        part = trained_part(state.params, frozen_vae)
        _, skipped_before = optim.num_skipped(state.opt_state)
        updates, opt_state = tx.update(grads, state.opt_state, part)
        params = optax.apply_updates(part, updates)
        skipped_in_a_row, skipped = optim.num_skipped(opt_state)
        if batch_optimal and not frozen_vae:
            params = _with_log_std(params, log_std, skip=skipped_in_a_row > 0)
        metrics = {
            "loss": loss,
            **bound_metrics,
            "kl_weight": kl_weight,
            "learning_rate": learning_rate(state.step - skipped_before),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "skipped_updates": skipped,
            "skipped_in_a_row": skipped_in_a_row,
        }
        ema_part = optim.update_ema(
            trained_part(state.ema_params, frozen_vae), params, state.step, ema_decay, ema_warmup
        )
        new_state = TrainState(
            step=state.step + 1,
            params=_with_trained_part(state.params, params, frozen_vae),
            opt_state=opt_state,
            ema_params=_with_trained_part(state.ema_params, ema_part, frozen_vae),
        )
        return new_state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    return train_step


def create_train_step(
    config: ConfigDict, image_shape: ImageShape
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the training step of a configuration, as `make_train_step` makes it."""
    c = config
    return make_train_step(
        experiment.create_model(c, image_shape),
        experiment.create_likelihood(c, image_shape[-1]),
        experiment.create_optimizer(c),
        experiment.create_kl_schedule(c),
        experiment.create_learning_rate(c),
        free_bits=c.kl.free_bits,
        distortion_weight=experiment.distortion_weight(c, image_shape),
        ema_decay=c.optim.ema_decay,
        ema_warmup=c.optim.ema_warmup,
        flip=c.data.flip,
        frozen_vae=bool(c.vae_workdir),
        accumulation_steps=c.train.accumulation_steps,
    )


def jit_train_steps(
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    mesh: Mesh,
    steps_per_call: int,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Jits `steps_per_call` training steps as one function.

    The result takes (state, images, batches, key) and returns (state, metrics [steps_per_call]).
    The state is donated. The images of step i are

    - images[batches[i]], if `images` is the training split in device memory: uint8 [N, H, W, C], or
      posteriors as `choose_flipped` takes them; `batches` is then int32 [steps_per_call, B];
    - batches[i], if `images` is None; `batches` is then uint8 [steps_per_call, B, H, W, C].

    A single step per call does not use `lax.scan`: on the CPU backend a convolution inside a scan
    runs many times slower (github.com/jax-ml/jax/issues/12868).

    Args:
      train_step: as `make_train_step` returns it.
      mesh: devices that share each batch.
      steps_per_call: number of steps in one call.
    """

    def one_step(
        images: PyTree, key: jax.Array, state: TrainState, batch: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        x = batch if images is None else jax.tree.map(lambda a: a[batch], images)
        return train_step(state, jax.tree.map(to_unit_interval, x), key)

    def train_steps(
        state: TrainState, images: PyTree, batches: jax.Array, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        step = functools.partial(one_step, images, key)
        if steps_per_call > 1:
            return jax.lax.scan(step, state, batches)
        state, metrics = step(state, batches[0])
        return state, jax.tree.map(lambda m: m[None], metrics)

    everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh, axis=1)
    return jax.jit(
        train_steps,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, batched, everywhere),
        out_shardings=(everywhere, everywhere),
        compiler_options=sharding.compiler_options(mesh),
    )
