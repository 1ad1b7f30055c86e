"""The jitted training step."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vae_jax import experiment, optim
from vae_jax.checkpoints.state import TrainState, trained_part
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.objectives.losses import (
    Batch,
    is_batch_optimal,
    make_loss_fn,
    make_prior_loss_fn,
    prepare_batch,
    split_batch,
    to_unit_interval,
)
from vae_jax.optim.schedules import Schedule
from vae_jax.runtime import sharding


def _with_log_std(params, log_std: jax.Array, skip: jax.Array):
    """`params` with the likelihood's log_std replaced, unless this update is skipped."""
    new = jnp.where(skip, params["decoder"]["log_std"], log_std)
    return {**params, "decoder": {**params["decoder"], "log_std": new}}


def make_gradient_fn(loss_fn: Callable, frozen_vae: bool, num_parts: int = 1) -> Callable:
    """Returns (params, batch, kl_weight) -> ((loss, (metrics, log_std or None)), gradients).

    With `num_parts` above 1 these are means over equal parts of the batch (gradient accumulation):
    the loss must then be a mean over images. A GPU holds one part at a time. On the CPU, where
    loops around convolutions are slow (see `jit_train_steps`), they are unrolled: nothing is saved.
    """

    def gradient_fn(params, batch: Batch, kl_weight):
        def loss_of_part(part):
            return loss_fn(_with_trained_part(params, part, frozen_vae), batch, kl_weight)

        part = trained_part(params, frozen_vae)
        return jax.value_and_grad(loss_of_part, has_aux=True)(part)

    def accumulated_gradient_fn(params, batch: Batch, kl_weight):
        def add(total, part: Batch):
            return jax.tree.map(jnp.add, total, gradient_fn(params, part, kl_weight)), None

        parts = split_batch(batch, num_parts)
        shapes = jax.eval_shape(gradient_fn, params, jax.tree.map(lambda p: p[0], parts), kl_weight)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parts, unroll=jax.default_backend() == "cpu")
        return jax.tree.map(lambda t: t / num_parts, total)

    return gradient_fn if num_parts == 1 else accumulated_gradient_fn


def _with_trained_part(params, part, frozen_vae: bool):
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
) -> Callable:
    """Returns (state, x [B,H,W,C] in [0,1], key) -> (state, metrics): one update, not jitted.

    With `frozen_vae` only the prior is trained, by `make_prior_loss_fn`, and x may be the images'
    posteriors as `choose_flipped` takes them. Gradients are accumulated over `accumulation_steps`
    parts of the batch.

    `key` is the run's train_key; the step folds its own number in, so that resuming needs no stored
    key.
    Metrics are float32 scalars: of this batch before the update, and of the update.
    """
    batch_optimal = is_batch_optimal(likelihood)
    if frozen_vae:
        loss_fn = make_prior_loss_fn(model)
    else:
        loss_fn = make_loss_fn(model, likelihood, free_bits, distortion_weight)
    gradient_fn = make_gradient_fn(loss_fn, frozen_vae, accumulation_steps)

    def train_step(state: TrainState, x: jax.Array, key: jax.Array):
        batch = prepare_batch(model, likelihood, flip, x, key, state.step)
        kl_weight = kl_schedule(state.step)
        (loss, (of_bound, log_std)), grads = gradient_fn(state.params, batch, kl_weight)
        part = trained_part(state.params, frozen_vae)
        _, skipped_before = optim.num_skipped(state.opt_state)
        updates, opt_state = tx.update(grads, state.opt_state, part)
        params = optax.apply_updates(part, updates)
        skipped_in_a_row, skipped = optim.num_skipped(opt_state)
        if batch_optimal and not frozen_vae:
            params = _with_log_std(params, log_std, skip=skipped_in_a_row > 0)
        metrics = {
            "loss": loss,
            **of_bound,
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


def create_train_step(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """The configured update, as `make_train_step` returns it."""
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


def jit_train_steps(train_step: Callable, mesh: Mesh, steps_per_call: int) -> Callable:
    """Returns jitted (state, images, batches, key) -> (state, metrics [steps_per_call]).

    Step i of a call trains on images[batches[i]], where `images` (uint8 [N,H,W,C], or posteriors as
    `choose_flipped` takes them) is the training split resident on the devices and `batches` int32
    [steps_per_call, B]; or, where `images` is None, on batches[i] itself (uint8
    [steps_per_call,B,H,W,C]). The state is donated. One step per call is no `lax.scan`: on the CPU
    backend a convolution inside a scan runs many times slower (github.com/jax-ml/jax/issues/12868).
    """

    def one_step(images, key, state, batch):
        batch = batch if images is None else jax.tree.map(lambda a: a[batch], images)
        return train_step(state, jax.tree.map(to_unit_interval, batch), key)

    def train_steps(state, images, batches, key):
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
