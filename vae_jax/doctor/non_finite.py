"""Which tensor of a training step is the first that is not finite."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from vae_jax.models import VAE
from vae_jax.objectives.losses import Batch


def first_non_finite(
    model: VAE, loss_fn: Callable, params, batch: Batch, kl_weight: float
) -> str | None:
    """Runs one step op by op and names the first tensor with an infinite or undefined value.

    Args:
      model, params: of the step.
      loss_fn: as from `losses.make_loss_fn`.
      batch: its images as the model sees them, and its noise.
      kl_weight: of its loss.

    Returns:
      What it is, with the path of its module; None where all are finite.
    """
    for name, value in _tensors(model, loss_fn, params, batch, kl_weight):
        if not jnp.isfinite(value).all():
            return name
    return None


def _tensors(model, loss_fn, params, batch, kl_weight) -> Iterator[tuple[str, jax.Array]]:
    """(name, tensor) in the order of the computation: parameters, forward pass, gradients."""
    for path, value in flatten_dict(params, sep="/").items():
        yield f"parameter {path}", value
    yield "images", batch.x

    def apply(method, argument):
        return model.apply(
            {"params": params},
            argument,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
        )

    posterior, encoder = apply("encode", batch.x)
    yield from _named_outputs(encoder)
    z = posterior.reparameterise(batch.noise)
    yield "latent z", z
    _, decoder = apply("decode", z)
    yield from _named_outputs(decoder)
    gradients, (metrics, _) = jax.grad(loss_fn, has_aux=True)(params, batch, kl_weight)
    for name in ("distortion", "rate"):
        if name in metrics:  # nothing is decoded to train a prior alone
            yield name, metrics[name]
    # Backpropagation visits the modules in the reverse order; those of a prior are taken last.
    order = [path for path, _ in (*_module_outputs(encoder), *_module_outputs(decoder))]
    gradients = flatten_dict(gradients)

    def position(path: tuple[str, ...]) -> int:
        return order.index(path[:-1]) if path[:-1] in order else -1

    for path in sorted(gradients, key=position, reverse=True):
        yield f"gradient of {'/'.join(path)}", gradients[path]


def _module_outputs(variables) -> list[tuple[tuple[str, ...], jax.Array]]:
    """(path of a module, its output), inner modules before those that contain them."""
    return [
        (path[:-1], value)
        for path, values in flatten_dict(variables["intermediates"]).items()
        for value in jax.tree.leaves(values)
    ]


def _named_outputs(variables) -> Iterator[tuple[str, jax.Array]]:
    for path, value in _module_outputs(variables):
        yield f"output of {'/'.join(path)}", value
