"""Finds the first tensor of a training step that is not finite."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from vae_jax.distributions import reparameterise
from vae_jax.tasks import Batch, Task
from vae_jax.typing import PyTree


def first_non_finite(task: Task, params: PyTree, batch: Batch, kl_weight: float) -> str | None:
    """Runs one training step operation by operation and names the first non-finite tensor.

    Args:
      task: what is trained.
      params: parameters at the step.
      batch: images (not posteriors) and noise of the step.
      kl_weight: weight of the rate in the loss.

    Returns:
      Kind and path of the tensor, such as 'output of encoder/stem'; None if all are finite.
    """
    for name, value in _tensors(task, params, batch, kl_weight):
        if not jnp.isfinite(value).all():
            return name
    return None


def _tensors(
    task: Task, params: PyTree, batch: Batch, kl_weight: float
) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, tensor) in the order of computation: parameters, forward pass, gradients."""
    for path, value in flatten_dict(params, sep="/").items():
        yield f"parameter {path}", value
    assert batch.x is not None
    yield "images", batch.x

    def apply(method: str, argument: PyTree) -> Any:
        return task.model.apply(
            {"params": params},
            argument,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
        )

    posterior, encoder = apply("encode", batch.x)
    yield from _named_outputs(encoder)
    z = reparameterise(posterior, batch.noise)
    for group in jax.tree.leaves(z):
        yield "latent z", group
    _, decoder = apply("decode", z)
    yield from _named_outputs(decoder)
    gradients, (metrics, _) = jax.grad(task.loss, has_aux=True)(params, batch, kl_weight)
    for name in ("distortion", "rate"):
        if name in metrics:  # training a prior alone decodes nothing
            yield name, metrics[name]
    # Backpropagation visits the modules in reverse order; modules of a prior are put last.
    order = [path for path, _ in (*_module_outputs(encoder), *_module_outputs(decoder))]
    gradients = flatten_dict(gradients)

    def position(path: tuple[str, ...]) -> int:
        return order.index(path[:-1]) if path[:-1] in order else -1

    for path in sorted(gradients, key=position, reverse=True):
        yield f"gradient of {'/'.join(path)}", gradients[path]


def _module_outputs(variables: PyTree) -> list[tuple[tuple[str, ...], jax.Array]]:
    """Returns (path of a module, its output), inner modules before those that contain them."""
    return [
        (path[:-1], value)
        for path, values in flatten_dict(variables["intermediates"]).items()
        for value in jax.tree.leaves(values)
    ]


def _named_outputs(variables: PyTree) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, tensor) of the outputs of all modules."""
    for path, value in _module_outputs(variables):
        yield f"output of {'/'.join(path)}", value
