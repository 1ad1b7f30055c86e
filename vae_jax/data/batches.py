"""The order in which images are used."""

import functools
from collections.abc import Callable

import numpy as np

from vae_jax.errors import check_integer


def fixed_order(num_images: int) -> np.ndarray:
    """Returns one fixed random order of images, the same in every run, int64 `[num_images]`."""
    return np.random.default_rng(0).permutation(num_images)


def make_batch_indices(num_images: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Returns the function from a step to the positions of the images in its batch.

    The batches are consecutive pieces of one stream: the permutations of epochs 0, 1, 2, ... one
    after another. So every epoch contains every image exactly once, a batch may straddle epochs,
    and a batch depends only on (seed, step), not on the batches requested before.

    Args:
      num_images: number of images in the split, at least 1.
      batch_size: images per step, at least 1; may exceed `num_images`.
      seed: non-negative integer.

    Returns:
      Function: step (non-negative integer) -> int32 `[batch_size]`.

    Raises:
      InputError: an argument is below its minimum.
    """
    check_integer("num_images", num_images, 1)
    check_integer("batch_size", batch_size, 1)
    check_integer("seed", seed, 0)
    num_images, batch_size = int(num_images), int(batch_size)

    @functools.lru_cache(maxsize=batch_size // num_images + 2)  # the epochs of one batch
    def permute(epoch: int) -> np.ndarray:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        return generator.permutation(num_images).astype(np.int32)

    def batch_indices(step: int) -> np.ndarray:
        check_integer("step", step, 0)
        start = int(step) * batch_size  # Python integers, because the product may exceed int32
        first, offset = divmod(start, num_images)
        epochs = range(first, (start + batch_size - 1) // num_images + 1)
        stream = np.concatenate([permute(epoch) for epoch in epochs])
        return stream[offset : offset + batch_size]

    return batch_indices
