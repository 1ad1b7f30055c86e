"""The gate for what users pass to `load` and `TrainedVAE`: a value the model takes, or an error.

Each function returns its argument in the type that the model works with, or raises an InputError
that names the argument, what was given, the rule and the remedy.
"""

import math
import operator
import os
import reprlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config.schema import MAX_TEMPERATURE
from vae_jax.errors import InputError
from vae_jax.streams import KEY_KIND, key_of_words
from vae_jax.typing import ImageShape, PyTree

MAX_VALUES = 2**31 - 1  # in one array on a device, whose elements XLA counts in 32 bits
MAX_DRAWS = 1_000_000  # draws per image; their keys are made before the first of them is used
MAX_LATENT = 1e15  # whose square, summed over millions of values, is finite in float32
NUM_KEY_WORDS = 2  # of a key of KEY_KIND
REPR = reprlib.Repr()
REPR.maxstring = REPR.maxother = 200


class NotFiniteError(InputError):
    """Numbers that are not finite, from the model or from the user."""


def images(value: object, image_shape: ImageShape) -> np.ndarray:
    """Returns images [N, H, W, C] as uint8 in [0, 255] or float32 in [0, 1].

    False and True count as 0.0 and 1.0.
    """
    array = _as_array("images", value)
    if array.dtype != np.uint8 and not _is_of(array, np.bool_, jnp.floating):
        is_integer = _is_of(array, jnp.integer)
        raise InputError(
            f"images have dtype {_dtype(value, array)}: this model takes uint8 in [0, 255] or "
            "floating-point numbers in [0, 1]."
            + " If they lie in [0, 255], pass np.asarray(images, np.uint8)."
            * is_integer
        )
    if array.shape[1:] != tuple(image_shape) or not len(array):
        raise InputError(
            f"images have shape {array.shape}: this model takes {_batched(image_shape)} with N at "
            "least 1."
        )
    if array.dtype == np.uint8:
        return array
    array = _to_float32(array)
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NotFiniteError(f"images have {_first_non_finite(array)}: remove or replace them.")
    if low < 0 or high > 1:
        raise InputError(
            f"floating-point images lie in [{low!s}, {high!s}]: scale them to [0, 1], or pass "
            "uint8."
        )
    return array


def latents(value: PyTree, like: PyTree, name: str = "z") -> PyTree:
    """Returns latents as float32 arrays [N, *latent_shape]; N is the same for all groups.

    Args:
      value: an array, or a tree of arrays as in `like`.
      like: shapes of the latents of one image.
      name: name of the argument.
    """
    shapes: list[jax.ShapeDtypeStruct]
    structure: Any
    shapes, structure = jax.tree.flatten(like)
    try:
        groups = structure.flatten_up_to(value)
    except ValueError as error:
        raise InputError(
            f"{name} is {_show(value)}: this model takes an array for each group of latents, "
            f"{jax.tree.map(lambda group: _batched(group.shape), like)}."
        ) from error
    arrays = [_latents_of_group(name, *pair) for pair in zip(groups, shapes, strict=True)]
    for array in arrays:
        same_length(name, arrays[0], f"another group of {name}", array)
    return jax.tree.unflatten(structure, arrays)


def _latents_of_group(name: str, value: object, like: jax.ShapeDtypeStruct) -> np.ndarray:
    array = _as_array(name, value)
    if not _is_of(array, jnp.integer, jnp.floating):
        raise InputError(
            f"{name} has dtype {_dtype(value, array)}: this model takes real numbers "
            f"{_batched(like.shape)}. Of a posterior, pass the mean."
        )
    if array.shape[1:] != like.shape or not len(array):
        raise InputError(
            f"{name} has shape {array.shape}: this model takes {_batched(like.shape)} with N at "
            "least 1."
        )
    array = _to_float32(array)
    if not np.isfinite(array).all():
        raise NotFiniteError(
            f"{name} has {_first_non_finite(array)}, but must be finite in float32: correct it. If "
            "the model computed it, load an earlier checkpoint."
        )
    largest = np.abs(array).max()
    if largest > MAX_LATENT:
        raise InputError(
            f"{name} has values up to {largest:g}: beyond {MAX_LATENT:g} the products in a model "
            "overflow. Correct them."
        )
    return array


def same_length(name: str, array: PyTree, other_name: str, other: PyTree) -> None:
    """Raises an InputError unless two arrays, or trees of arrays, have as many rows."""
    n, other_n = (len(jax.tree.leaves(tree)[0]) for tree in (array, other))
    if n != other_n:
        raise InputError(
            f"{name} and {other_name} have {n} and {other_n} rows: pass one row of each for each "
            "image."
        )


def count(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Returns an integer from `minimum` to `maximum`."""
    rule = f"an integer, at least {minimum}"
    if maximum is not None:
        rule += f" and at most {maximum:,}"
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        raise InputError(f"{name} = {_show(value)}: must be {rule}.")
    return number


def flag(name: str, value: Any) -> bool:
    """Returns True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} = {_show(value)}: must be True or False.")
    return bool(value)


def directory(name: str, value: Any) -> str:
    """Returns the path of a directory, which need not exist."""
    path = os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""
    if not path or os.path.isfile(path):
        raise InputError(
            f"{name} = {_show(value)}: must be the path of a directory, not of a file."
        )
    return path


def optional(check: Callable[..., Any], name: str, value: Any, *limits: int) -> Any:
    """Returns None for None, and otherwise what a function of this module returns."""
    return None if value is None else check(name, value, *limits)


def temperature(value: Any) -> float:
    """Returns a factor on the standard deviations of a prior, from 0 to MAX_TEMPERATURE."""
    array = _as_array("temperature", value)
    is_number = array.ndim == 0 and _is_of(array, jnp.integer, jnp.floating)
    number = float(_to_float32(array)) if is_number else math.nan
    if not 0 <= number <= MAX_TEMPERATURE:
        raise InputError(
            f"temperature = {_show(value)}: must be a number from 0 to {MAX_TEMPERATURE} (1: the "
            "model as it is)."
        )
    return float(array)


def key(value: Any) -> jax.Array:
    """Returns a random key of the kind that all keys of this package have.

    Keys of another kind are hashed, because JAX draws from several of those at once what depends on
    how many they are: the noise of an image would depend on its batch. An old-style key is taken if
    it has two words, which only this kind has. (JAX tells the others apart by a setting.)
    """
    _refuse_tracer("key", value)
    is_array = isinstance(value, jax.Array | np.ndarray)
    if is_array and value.dtype == np.uint32 and value.shape == (NUM_KEY_WORDS,):
        return key_of_words(np.asarray(value))
    if not (is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)) or value.shape:
        given = f"{value.dtype} {value.shape}" if is_array else _show(value)
        raise InputError(
            f"key is {given}: must be a single random key, jax.random.key(seed). Of an array of "
            "keys, pass one."
        )
    # On the host, because it may lie on a device that the model does not use.
    words = _as_array("key", jax.random.key_data(value)).ravel()
    if jax.random.key_impl(value) == KEY_KIND:
        return key_of_words(words)
    hashed = key_of_words(np.zeros(NUM_KEY_WORDS, np.uint32))
    for word in words:
        hashed = jax.random.fold_in(hashed, word)
    return hashed


def _show(value: object) -> str:
    """Returns one short line that represents a value."""
    try:
        return " ".join(REPR.repr(value).split())
    except ValueError:  # Python refuses to write an integer of thousands of digits
        return f"<{type(value).__name__}>"


def _dtype(value: object, array: np.ndarray) -> str:
    return str(array.dtype) + ("" if hasattr(value, "dtype") else f" (a {type(value).__name__})")


def _refuse_tracer(name: str, value: object) -> None:
    if isinstance(value, jax.core.Tracer):
        raise InputError(
            f"{name}: traced by JAX, but a TrainedVAE works on NumPy arrays: call it outside of "
            "jax.jit, jax.grad and jax.vmap; its `model` and `params` can be used there."
        )


def _as_array(name: str, value: object) -> np.ndarray:
    _refuse_tracer(name, value)
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise InputError(
            f"{name}: some values are masked, but a model cannot leave out any: pass "
            f"{name}.filled(number)."
        )
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, deleted JAX arrays, whatever __array__ raises
        raise InputError(f"{name}: not readable as an array ({error}): pass one.") from error


def _is_of(array: np.ndarray, *kinds: Any) -> bool:
    return any(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Returns the nearest float32; numbers beyond its range become infinite."""
    with np.errstate(all="ignore"):
        return array.astype(np.float32, copy=False)


def _first_non_finite(array: np.ndarray) -> str:
    bad = np.argwhere(~np.isfinite(array))
    first = tuple(bad[0].tolist())
    return (
        f"{len(bad)} of {array.size} values that are not finite, the first {array[first]!s} at "
        f"{first}"
    )


def _batched(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
