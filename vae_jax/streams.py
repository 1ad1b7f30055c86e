"""Named streams of random numbers.

Each draw has a key of its own, derived from the seed of a run (`seed`) or of its evaluation
(`eval.seed`), so that no draw depends on which others are made. Stored results depend on these
derivations: add streams, but do not change them. (Some of the keys are equal. Their draws differ,
because each folds in further numbers. New streams should fold in other numbers than these.)
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KEY_KIND = "threefry2x32"  # of all keys, whatever kind JAX is set to make
# The numbers that are folded into the key of the seed, in this order. Stored results have been
# computed with `jax.random.split(key, n)[i]` in many places where `i` is folded in here. With JAX's
# default, partitionable threefry both are the same key, whatever n is.
_DERIVATIONS: dict[str, tuple[int, ...]] = {
    # From the seed of a run.
    "init": (0,),
    "train": (1,),
    "codes": (),  # of training images, from which a prior starts
    # From the seed of its evaluation.
    "eval/binary": (1,),  # binary versions of grey images
    "eval/elbo": (0,),
    "eval/iw_elbo": (1,),
    "eval/samples": (2,),
    "eval/paths": (2, 1),
    "eval/log_prior": (),
    "eval/prior": (2, 0),  # the sets of images that the sample metrics compare
    "eval/images": (2, 1),
    "eval/posterior": (2, 2),
    "eval/reconstructions": (2, 3),
    "eval/pixels": (2, 4),
    "validation/elbo": (0,),
    "validation/samples": (1,),
    "doctor/elbo": (3, 0),
    "doctor/posterior": (3, 1),
    "doctor/prior": (3, 2),
    "ablation/elbo": (),
    "ablation/samples": (2,),
    "priors/posterior_0": (10,),  # two sets of draws, to compare with each other
    "priors/posterior_1": (11,),
}


def stream(name: str, seed: int) -> jax.Array:
    """Returns the random key of a stream; it does not depend on JAX's settings."""
    return functools.reduce(jax.random.fold_in, _DERIVATIONS[name], _key(seed))


def _key(seed: int) -> jax.Array:
    """Returns what `jax.random.key(seed)` returns under JAX's default settings."""
    return key_of_words(np.array([0, seed & 0xFFFFFFFF], np.uint32))


def key_of_words(words: np.ndarray) -> jax.Array:
    """Returns the key of the kind KEY_KIND that consists of these words, uint32 [2]."""
    return jax.random.wrap_key_data(jnp.asarray(words), impl=KEY_KIND)


class StepKeys(NamedTuple):
    """The random keys of one training step."""

    flip: jax.Array
    binary: jax.Array
    posterior: jax.Array
    prior: jax.Array


def step_keys(key: jax.Array, step: jax.typing.ArrayLike) -> StepKeys:
    """Returns the keys of a training step: resuming needs no stored key.

    Args:
      key: the stream 'train' of the run.
      step: number of the step, from 0.
    """
    flip, binary, posterior = jax.random.split(jax.random.fold_in(key, step), 3)
    return StepKeys(flip, binary, posterior, jax.random.fold_in(posterior, 1))
