"""Notices that images change on disk while a run uses them."""

import hashlib
from typing import NamedTuple

import numpy as np

from vae_jax.data.splits import Dataset, ImagesChangedError, Split, check_length, signature
from vae_jax.errors import UserError

NUM_SPOTS = 64  # images of each file that are hashed at each check


class _State(NamedTuple):
    """What a file looks like at one time: its signature, and the hash of some images."""

    signature: tuple
    spots: str


class UnchangedImages:
    """Checks at intervals that the images of a run are still those that it started with.

    A change of a file's size, time or number leads to a new hash of all images, because a copy of
    the same images is fine. Some images are read at every check, because a file may change without
    a new time.

    Args:
      dataset: the dataset.
      sha256: hash of its training and validation images at the start.
      splits: splits that the run has opened.
    """

    def __init__(self, dataset: Dataset, sha256: str, *splits: Split) -> None:
        self._dataset, self._sha256 = dataset, sha256
        self._images = {signature(split.images)[0]: split.images for split in splits}
        self._seen = self._look()

    def check(self) -> None:
        """Raises an ImagesChangedError if the images have changed."""
        for images in self._images.values():
            check_length(images)
        now = self._look()
        if now == self._seen:
            return
        changed = [path for path in now if now[path] != self._seen[path]]
        if (
            any(now[path].spots != self._seen[path].spots for path in changed)
            or not self._is_same()
        ):
            raise ImagesChangedError(
                f"{' and '.join(changed)} changed while the run was using it: put the old images "
                "back and run the same command again. Steps since the last evaluation may have "
                "seen the new images; remove their checkpoints if you want to be sure."
            )
        self._seen = now

    def _is_same(self) -> bool:
        """Returns whether the files on disk have the images of the start."""
        try:
            return self._dataset.hash() == self._sha256
        except UserError:  # not even a dataset any more
            return False

    def _look(self) -> dict[str, _State]:
        return {path: _State(signature(x), _hash_spots(x)) for path, x in self._images.items()}


def _hash_spots(images: np.ndarray) -> str:
    rows = np.linspace(0, len(images) - 1, min(len(images), NUM_SPOTS)).astype(np.int64)
    return hashlib.sha256(np.ascontiguousarray(images[rows]).data).hexdigest()
