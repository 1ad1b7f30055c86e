"""Whether a model and its batches fit into memory, before anything is compiled or allocated."""

import math
import os
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from vae_jax.errors import InputError
from vae_jax.models.vae import VAE

GIB = 2**30
_SIZES: dict[str, dict[str, int]] = {}  # of the models that this process has traced
MODEL_KEYS = ("model.widths", "model.num_blocks", "model.patch_size", "model.latent_shape")


def memory_limit() -> int:
    """Returns the bytes of memory of a device, or of the machine if the devices are CPUs."""
    statistics = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(statistics.get("bytes_limit", machine))


def _state_bytes(model: VAE) -> dict[str, int]:
    """Returns the bytes of the state of a training run, for each part of the model.

    Tracing the model takes up to a second, so a result is kept.
    """
    key = repr(model)  # all fields; as a whole, it cannot be hashed
    if key not in _SIZES:
        x = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        _SIZES[key] = {
            name: 4 * sum(4 * p.size for p in jax.tree.leaves(params[name])) for name in params
        }
    return _SIZES[key]


def check_memory(
    model: VAE, prior_keys: Iterable[str], batch_sizes: Mapping[str, int]
) -> dict[str, int]:
    """Checks that a device can hold the state of a training run and the images of one batch.

    The state is the float32 parameters, their average, and the two moments of the optimiser.
    Activations come on top, so that a run which passes may still be too large.

    Args:
      model: the VAE with its prior.
      prior_keys: configuration keys that the parameters of the prior depend on.
      batch_sizes: images per batch, by configuration key.

    Returns:
      The bytes of each part, by the keys that it depends on.

    Raises:
      InputError: they need more memory than there is; the message names the keys of the largest.
    """
    size = _state_bytes(model)
    image = 4 * math.prod(model.image_shape)
    batch_key, batch_size = max(batch_sizes.items(), key=lambda item: item[1])
    needed = {
        ", ".join(MODEL_KEYS): size["encoder"] + size["decoder"],
        ", ".join(("model.latent_shape", *prior_keys)): size.get("prior", 0),
        batch_key: batch_size * image,
    }
    total, limit = sum(needed.values()), memory_limit()
    if total > limit:
        keys = max(needed, key=lambda key: needed[key])
        raise InputError(
            f"parameters, optimiser and one batch of images need {total / GIB:.1f} GiB of memory, "
            f"but there are {limit / GIB:.1f} GiB. {needed[keys] / GIB:.1f} GiB of it depend on "
            f"{keys}: use smaller values."
        )
    return needed
