"""The training step: gradients, update, moving average and metrics, jitted over several steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vae_jax import optim
from vae_jax.checkpoints.state import TrainState
from vae_jax.experiment import Experiment
from vae_jax.optim.schedules import Schedule
from vae_jax.runtime import sharding
from vae_jax.tasks import Batch, Rows, Task, split_batch
from vae_jax.typing import PyTree

# By default XLA uses YNNPACK for everything on a CPU. That makes sums over positions much faster,
# but 3x3 convolutions take 1.3 times as long as without it.
CPU_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def _with_log_std(params: PyTree, log_std: jax.Array, skip: jax.Array) -> PyTree:
    """Returns `params` with this log_std of the likelihood, unless the update is skipped."""
    new = jnp.where(skip, params["decoder"]["log_std"], log_std)
    return {**params, "decoder": {**params["decoder"], "log_std": new}}


def make_gradient_fn(task: Task, num_parts: int = 1) -> Callable[..., Any]:
    """Makes the function that computes loss and gradients of a batch.

    With `num_parts` above 1 it accumulates gradients: the results are means over equal parts of the
    batch, so the loss must be a mean over images. A GPU holds one part in memory at a time. On the
    CPU, where loops around convolutions are slow (see `jit_train_steps`), the loop is unrolled and
    saves no memory.

    Args:
      task: the task, which owns the loss and the trained parameters.
      num_parts: number of parts of a batch.

    Returns:
      (params, batch, kl_weight) -> ((loss, (metrics, log_std or None)), gradients).
    """

    def gradient_fn(params: PyTree, batch: Batch, kl_weight: jax.Array) -> Any:
        def compute_loss(trained: PyTree) -> Any:
            return task.loss(task.with_trained(params, trained), batch, kl_weight)

        return jax.value_and_grad(compute_loss, has_aux=True)(task.trained(params))

    def accumulated_gradient_fn(params: PyTree, batch: Batch, kl_weight: jax.Array) -> Any:
        def add(total: PyTree, part: Batch) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, gradient_fn(params, part, kl_weight)), None

        parts = split_batch(batch, num_parts)
        shapes = jax.eval_shape(gradient_fn, params, jax.tree.map(lambda p: p[0], parts), kl_weight)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parts, unroll=jax.default_backend() == "cpu")
        return jax.tree.map(lambda t: t / num_parts, total)

    return gradient_fn if num_parts == 1 else accumulated_gradient_fn


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    kl_schedule: Schedule,
    learning_rate: Schedule,
    ema_decay: float = 0.999,
    ema_warmup: bool = True,
    accumulation_steps: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the function that does one update; it is not jitted.

    Args:
      task: what is trained.
      tx: optimiser.
      kl_schedule: function from a step to its KL weight.
      learning_rate: function from a step to its learning rate, for the metrics.
      ema_decay: decay of the moving average of the parameters.
      ema_warmup: whether the average starts with a smaller decay.
      accumulation_steps: parts of a batch whose gradients are accumulated.

    Returns:
      (state, rows, key) -> (state, metrics). `rows` are the rows of the step, as the task reads
      them. `key` is the stream 'train' of the run; the step folds in its own number, so that
      resuming needs no stored key. The metrics are float32 scalars that describe this batch before
      the update, and the update.
    """
    gradient_fn = make_gradient_fn(task, accumulation_steps)

    def train_step(
        state: TrainState, rows: Rows, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch = task.prepare(rows, key, state.step)
        kl_weight = kl_schedule(state.step)
        (loss, (bound_metrics, log_std)), grads = gradient_fn(state.params, batch, kl_weight)
        trained = task.trained(state.params)
        _, skipped_before = optim.num_skipped(state.opt_state)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        skipped_in_a_row, skipped = optim.num_skipped(opt_state)
        if log_std is not None:
            trained = _with_log_std(trained, log_std, skip=skipped_in_a_row > 0)
        metrics = {
            "loss": loss,
            **bound_metrics,
            "kl_weight": kl_weight,
            "learning_rate": learning_rate(state.step - skipped_before),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(trained),
            "skipped_updates": skipped,
            "skipped_in_a_row": skipped_in_a_row,
        }
        average = optim.update_ema(
            task.trained(state.ema_params), trained, state.step, ema_decay, ema_warmup
        )
        new_state = TrainState(
            step=state.step + 1,
            params=task.with_trained(state.params, trained),
            opt_state=opt_state,
            ema_params=task.with_trained(state.ema_params, average),
        )
        return new_state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    return train_step


def create_train_step(
    experiment: Experiment,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the training step of an experiment, as `make_train_step` makes it."""
    plan = experiment.training
    return make_train_step(
        experiment.task,
        experiment.tx,
        experiment.kl_schedule,
        experiment.learning_rate,
        plan.ema_decay,
        plan.ema_warmup,
        plan.accumulation_steps,
    )


def jit_train_steps(
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    mesh: Mesh,
    steps_per_call: int,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Jits `steps_per_call` training steps as one function.

    The result takes (state, resident, batches, key) and returns (state, metrics [steps_per_call]).
    The state is donated. The rows of step i are

    - those at the positions batches[i] of `resident`, the rows of the whole training split in
      device memory; `batches` is then int32 [steps_per_call, B];
    - batches[i], if `resident` is None; each array in `batches` is then [steps_per_call, B, ...].

    A single step per call does not use `lax.scan`: on the CPU backend a convolution inside a scan
    runs many times slower (github.com/jax-ml/jax/issues/12868).

    Args:
      train_step: as `make_train_step` returns it.
      mesh: devices that share each batch.
      steps_per_call: number of steps in one call.
    """

    def one_step(
        resident: Rows | None, key: jax.Array, state: TrainState, batch: PyTree
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rows = batch if resident is None else jax.tree.map(lambda a: a[batch], resident)
        return train_step(state, rows, key)

    def train_steps(
        state: TrainState, resident: Rows | None, batches: PyTree, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        step = functools.partial(one_step, resident, key)
        if steps_per_call > 1:
            return jax.lax.scan(step, state, batches)
        state, metrics = step(state, jax.tree.map(lambda b: b[0], batches))
        return state, jax.tree.map(lambda m: m[None], metrics)

    everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh, axis=1)
    return jax.jit(
        train_steps,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, batched, everywhere),
        out_shardings=(everywhere, everywhere),
        compiler_options=sharding.cpu_compiler_options(mesh, CPU_COMPILER_OPTIONS),
    )
