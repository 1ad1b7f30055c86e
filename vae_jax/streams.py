"""Named streams of random numbers.

Each draw has a key of its own, derived from the seed of a run (`seed`) or of its evaluation
(`eval.seed`), so that no draw depends on which others are made. Stored results depend on these
derivations: add streams, but do not change them. (Some of the keys are equal, because
`jax.random.split(key, n)[i]` is `jax.random.fold_in(key, i)`. Their draws differ, because each
folds in further numbers. New streams should fold in other numbers than these.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

_Derivation = Callable[[jax.Array], jax.Array]


def _part(index: int, num: int, fold: int | None = None) -> _Derivation:
    """Returns the derivation of key `index` of `num` keys, after a number is folded in, if any."""

    def derive(key: jax.Array) -> jax.Array:
        key = key if fold is None else jax.random.fold_in(key, fold)
        return key if num == 1 else jax.random.split(key, num)[index]

    return derive


_DERIVATIONS: dict[str, _Derivation] = {
    # From the seed of a run.
    "init": _part(0, 2),
    "train": _part(1, 2),
    "codes": _part(0, 1),  # of training images, from which a prior starts
    # From the seed of its evaluation.
    "eval/binary": _part(0, 1, fold=1),  # binary versions of grey images
    "eval/elbo": _part(0, 3),
    "eval/iw_elbo": _part(1, 3),
    "eval/samples": _part(2, 3),
    "eval/paths": lambda key: jax.random.fold_in(jax.random.split(key, 3)[2], 1),
    "eval/log_prior": _part(0, 1),
    "eval/prior": _part(0, 5, fold=2),  # the sets of images that the sample metrics compare
    "eval/images": _part(1, 5, fold=2),
    "eval/posterior": _part(2, 5, fold=2),
    "eval/reconstructions": _part(3, 5, fold=2),
    "eval/pixels": _part(4, 5, fold=2),
    "validation/elbo": _part(0, 2),
    "validation/samples": _part(1, 2),
    "doctor/elbo": _part(0, 3, fold=3),
    "doctor/posterior": _part(1, 3, fold=3),
    "doctor/prior": _part(2, 3, fold=3),
    "ablation/elbo": _part(0, 1),
    "ablation/samples": _part(0, 1, fold=2),
    "priors/posterior_0": _part(0, 1, fold=10),  # two sets of draws, to compare with each other
    "priors/posterior_1": _part(0, 1, fold=11),
}


def stream(name: str, seed: int) -> jax.Array:
    """Returns the random key of a stream."""
    return _DERIVATIONS[name](jax.random.key(seed))


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
