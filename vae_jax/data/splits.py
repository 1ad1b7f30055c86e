"""Splits of a dataset as rows of memory-mapped uint8 arrays, and a hash of their images."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from vae_jax.data import sources
from vae_jax.data.arrays import check_same_shape, open_images, open_labels
from vae_jax.data.batches import fixed_order
from vae_jax.data.datasets import prepare
from vae_jax.errors import InputError, UserError
from vae_jax.typing import ImageShape

SPLITS = ("train", "validation", "test")
HASH_CHUNK_BYTES = 16 * 2**20  # bytes of a memory map that are hashed at a time
_HASHES: dict[tuple, str] = {}  # of files that this process has hashed, by their signatures


class ImagesChangedError(UserError, RuntimeError):
    """The images changed on disk while they were in use."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A part of a dataset: selected rows of a memory map.

    Attributes:
      name: 'train', 'validation' or 'test'.
      images: uint8 `[M, H, W, C]` memory map, 0 to 255.
      labels: uint8 `[M]` memory map, or None if the dataset has no labels.
      indices: int64 `[N]`, the rows of `images` and `labels` that make up the split.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels) of one image."""
        return self.images.shape[1:]

    def take(self, positions: np.ndarray | slice) -> np.ndarray:
        """Returns the images at `positions` within the split, uint8 `[len(positions), H, W, C]`.

        Raises:
          ImagesChangedError: the file is shorter than it was when it was opened.
        """
        check_length(self.images)
        return np.asarray(self.images[self.indices[positions]])

    def take_labels(self, positions: np.ndarray | slice) -> np.ndarray:
        """Returns the labels at `positions` within the split, uint8 `[len(positions)]`."""
        assert self.labels is not None, "the dataset has no labels"
        check_length(self.labels)
        return np.asarray(self.labels[self.indices[positions]])

    def shuffled(self, num_images: int | None = None) -> np.ndarray:
        """Returns images in one fixed random order: the first ones are a sample of the split.

        Args:
          num_images: largest number of images; None: all.
        """
        return self.take(fixed_order(len(self))[:num_images])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset as a configuration describes it; its arrays are opened when a split is asked for.

    The first four attributes are the arguments of `load_split`; `options` are those of named
    datasets.

    Attributes:
      sha256: hash of the images that the run was trained on, which must be the same; None: any
        images are right.
      allow_other_images: whether to open images with another hash, too.
    """

    name: str
    data_dir: str
    validation_size: int
    options: Mapping[str, Any]
    sha256: str | None = None
    allow_other_images: bool = False

    def split(self, split: str) -> Split:
        """Opens 'train', 'validation' or 'test'; see `load_split`.

        Raises:
          InputError: these are not the images that the run was trained on.
        """
        if self.difference() and not self.allow_other_images:
            raise InputError(
                f"data.name = {self.name!r} in data.dir = {self.data_dir!r}: {self.difference()} "
                "Put the old images back, in their old order, name their directory with "
                "--data_dir, or evaluate on these with --allow_other_images."
            )
        return self._open(split)

    def difference(self) -> str:
        """Returns a sentence if the images are not those that the run was trained on, else ''."""
        if self.sha256 is None or (now := self.hash()) == self.sha256:
            return ""
        return (
            "these are not the training and validation images that the run was trained on, or not "
            f"in the same order (SHA-256 {now[:12]} now, {self.sha256[:12]} in its config.json)."
        )

    def hash(self) -> str:
        """Returns the hash of the training and validation images; see `hash_images`."""
        splits = [self._open(name) for name in ("train", "validation")]
        key = tuple(signature(split.images) for split in splits)
        if key not in _HASHES:
            _HASHES[key] = hash_images(splits)
        return _HASHES[key]

    def _open(self, split: str) -> Split:
        return load_split(self.name, split, self.data_dir, self.validation_size, **self.options)

    def describe(self) -> str:
        """Returns the name, and what was done to the images of a named dataset."""
        if self.name not in sources.REGISTRY:
            return self.name
        return sources.create_source(self.name, **self.options).describe()


def load_split(
    name: str, split: str, data_dir: str, validation_size: int = 5000, **options: Any
) -> Split:
    """Opens a split, after preparing the dataset if its arrays are missing.

    The validation split is `validation_images.npy` if that file exists. Otherwise it is carved out
    of the training images by one fixed permutation, the same for every training seed. It has to be
    a permutation because users' directories are often sorted by class. The test file is opened for
    the test split only.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      split: 'train', 'validation' or 'test'.
      data_dir: directory of the prepared datasets; `~` is expanded.
      validation_size: number of images to carve out of the training images.
      **options: options of named datasets, as for `prepare`.

    Raises:
      InputError: unknown name or split, a dataset that cannot be prepared, or arrays that break a
        rule.
    """
    if split not in SPLITS:
        raise InputError(f"split={split!r}: must be one of {', '.join(SPLITS)}.")
    directory = prepare(name, data_dir, **options)
    carved = not os.path.lexists(directory / "validation_images.npy")
    file_split = "train" if split == "validation" and carved else split
    images = open_images(directory / f"{file_split}_images.npy")
    if file_split != "train":
        check_same_shape(directory, file_split, images)
    labels = open_labels(directory / f"{file_split}_labels.npy", len(images))
    indices = np.arange(len(images))
    if file_split == "train" and carved:
        indices = _carve(len(images), split, validation_size)
    return Split(split, images, labels, indices)


def hash_images(splits: Sequence[Split]) -> str:
    """Returns the hexadecimal SHA-256 of all image arrays that `splits` are parts of.

    The hash covers whole arrays, their shapes and pixels, but not the paths of the files; it takes
    about 1 s per GB. Several splits of one file count once, so the hash also shows whether the
    validation images were carved out of the training images.
    """
    arrays = {getattr(s.images, "filename", None) or id(s.images): s.images for s in splits}
    digest = hashlib.sha256()
    for images in arrays.values():
        digest.update(f"{images.dtype} {images.shape} ".encode())
        step = max(1, HASH_CHUNK_BYTES // images[0].nbytes)
        check_length(images)
        for start in range(0, len(images), step):
            digest.update(np.ascontiguousarray(images[start : start + step]).data)
    return digest.hexdigest()


def signature(images: np.ndarray) -> tuple[str, int, int, int]:
    """Returns the path of memory-mapped images, and size, time of change and number of their file.

    Raises:
      ImagesChangedError: the file does not exist any more.
    """
    path = str(cast(np.memmap, images).filename)
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise ImagesChangedError(
            f"{path} was removed while it was in use: put it back and run the same command again."
        ) from error
    return path, status.st_size, status.st_mtime_ns, status.st_ino


def check_length(images: np.ndarray) -> None:
    """Raises an ImagesChangedError if a memory-mapped file was removed or became shorter.

    Reading beyond its end would kill the process (SIGBUS).
    """
    if not isinstance(images, np.memmap):
        return
    path, size, *_ = signature(images)
    needed = images.offset + images.nbytes
    if size < needed:
        raise ImagesChangedError(
            f"{path} became shorter while it was in use ({size:,} instead of {needed:,} bytes): "
            "put the old file back and run the same command again."
        )


def _carve(num_images: int, split: str, validation_size: int) -> np.ndarray:
    """Returns the rows of the training images that make up `split`, in ascending order.

    Args:
      num_images: number of images in train_images.npy.
      split: 'train' or 'validation'.
      validation_size: number of rows to carve out for 'validation'.

    Raises:
      InputError: `validation_size` leaves `split` without images, or is not an integer.
    """
    is_validation = split == "validation"
    minimum = 1 if is_validation else 0
    if not hasattr(validation_size, "__index__") or not minimum <= validation_size < num_images:
        raise InputError(
            f"data.validation_size = {validation_size}: must be at least {minimum} to load the "
            f"{split} split, and less than the {num_images} images of train_images.npy. Change it "
            "for a new run, add images, or place validation_images.npy beside train_images.npy."
        )
    permutation = fixed_order(num_images)
    rows = permutation[:validation_size] if is_validation else permutation[validation_size:]
    return np.sort(rows)
