"""Checks of restored arrays, and arrays that a checkpoint stores only once.

Orbax verifies its own small files but not the arrays, so it would restore an array with a flipped
bit without an error. Each checkpoint therefore has a checksum of every array. And where averaged
parameters equal the raw ones, as those of a frozen VAE do, only the raw ones are stored.
"""

import dataclasses
import zlib
from collections.abc import Callable, Collection

import jax
import numpy as np

from vae_jax.checkpoints.state import TrainState
from vae_jax.typing import Array, PyTree


def _bytes(array: Array) -> np.ndarray:
    return np.asarray(array).reshape(-1).view(np.uint8)


def compute_checksums(state: TrainState) -> dict[str, int]:
    """Computes the CRC-32 of the bytes of every array in `state`.

    The arrays must be replicated over the devices.

    Returns:
      The checksums, by the path of the array in the state.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): zlib.crc32(_bytes(leaf).data) for path, leaf in leaves}


def check_array_shape(
    path: tuple, array: np.ndarray, expected: Array | jax.ShapeDtypeStruct
) -> None:
    """Raises a ValueError if the array restored at `path` has another shape than `expected`."""
    if array.shape != expected.shape:
        name = jax.tree_util.keystr(path)
        raise ValueError(
            f"{name} has shape {array.shape} in the checkpoint, but {expected.shape} in the model"
        )


def find_repeated(state: TrainState) -> list[str]:
    """Returns the paths of the arrays in `ema_params` that equal those in `params`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state.ema_params)
    pairs = zip(paths, jax.tree.leaves(state.params), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, averaged), param in pairs
        if np.array_equal(_bytes(averaged), _bytes(param))
    ]


def replace_repeated(
    state: TrainState, repeated: Collection[str], make: Callable[[Array], Array]
) -> TrainState:
    """Replaces the arrays of `ema_params` at the paths `repeated`.

    Args:
      state: the state to take all other arrays from.
      repeated: paths, as `find_repeated` returns them.
      make: function from the array of `params` at the same place to the new array.
    """

    def replace(path: tuple, averaged: Array, param: Array) -> Array:
        return make(param) if jax.tree_util.keystr(path) in repeated else averaged

    ema_params: PyTree = jax.tree.map_with_path(replace, state.ema_params, state.params)
    return dataclasses.replace(state, ema_params=ema_params)


def placeholder(array: Array) -> np.ndarray:
    """Returns what is stored instead of a repeated array; orbax cannot write empty arrays."""
    return np.zeros(1, array.dtype)
