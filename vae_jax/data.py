"""Datasets as memory-mapped uint8 arrays, and the order in which their images are used.

A dataset is a directory with `{train,test}_images.npy` (uint8 `[N, H, W, C]`, 0 to 255) and, if
wanted, `{train,test}_labels.npy` (uint8 `[N]`) and `validation_images.npy`. The named datasets are
decoded into such a directory once; any other directory of arrays is a dataset as it is.

    python -m vae_jax.data fashion_mnist     # prepares it and prints what is there
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from vae_jax import data_sources

DEFAULT_DATA_DIR = "~/.cache/vae_jax"
SPLITS = ("train", "validation", "test")
_CELEB_A_SUBSET = "celeb_a_10k_crop148_64"
_HASHED_AT_A_TIME = 16 * 2**20  # bytes of a memory map
_NUM_IMAGES_CHECKED = 64  # a sample shows a wrong value range without reading the whole map


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A part of a dataset: some rows of a memory map.

    Attributes:
      name: 'train', 'validation' or 'test'.
      images: uint8 `[M, H, W, C]` memory map, 0 to 255.
      labels: uint8 `[M]` memory map or None.
      indices: int64 `[N]`, the rows of `images` and `labels` that make up the split.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def take(self, positions) -> np.ndarray:
        """Returns uint8 `[len(positions), H, W, C]`; positions count within the split."""
        return np.asarray(self.images[self.indices[positions]])


def load_split(
    name: str,
    split: str,
    data_dir: str,
    validation_size: int = 5000,
    crop: int = 148,
    image_size: int = 64,
) -> Split:
    """Opens a split, after preparing the dataset where its arrays are missing.

    The validation split is `validation_images.npy` where that exists. Otherwise it is carved out of
    the training images by one fixed permutation, the same for every training seed; a permutation,
    because users' directories are often sorted by class. No test file is opened for the other two.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      split: 'train', 'validation' or 'test'.
      data_dir: where prepared datasets live; `~` is expanded.
      validation_size: number of images to carve out of the training images.
      crop: side of the central square cut from a CelebA image, in pixels; only for celeb_a.
      image_size: side of the prepared CelebA images, in pixels; only for celeb_a.

    Raises:
      ValueError: unknown name or split, data not to be had, or arrays that break a rule.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}.")
    directory = prepare(name, data_dir, crop, image_size)
    carved = not (directory / "validation_images.npy").exists()
    file_split = "train" if split == "validation" and carved else split
    images = _open_images(directory / f"{file_split}_images.npy")
    if file_split != "train":
        _check_same_shape(directory, file_split, images)
    labels = _open_labels(directory / f"{file_split}_labels.npy", len(images))
    indices = np.arange(len(images))
    if file_split == "train" and carved:
        indices = _carve(len(images), split, validation_size)
    return Split(split, images, labels, indices)


def make_batch_indices(num_images: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Makes the function from a step to the positions of its batch.

    The batches are consecutive pieces of one stream, the permutations of epoch 0, 1, 2, ... one
    after the other. So every epoch has every image exactly once, a batch may straddle epochs, and
    the batch depends on (seed, step) alone, whatever was asked for before.

    Args:
      num_images: number of images in the split, at least 1.
      batch_size: images per step, at least 1; may exceed `num_images`.
      seed: non-negative integer.

    Returns:
      step (non-negative integer) -> int32 `[batch_size]`.

    Raises:
      ValueError: an argument is below its minimum.
    """
    _check_integer("num_images", num_images, 1)
    _check_integer("batch_size", batch_size, 1)
    _check_integer("seed", seed, 0)
    num_images, batch_size = int(num_images), int(batch_size)
    permutations: dict[int, np.ndarray] = {}  # of the epochs in use

    def permute(epoch: int) -> np.ndarray:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        return generator.permutation(num_images).astype(np.int32)

    def batch_indices(step: int) -> np.ndarray:
        nonlocal permutations
        _check_integer("step", step, 0)
        start = int(step) * batch_size  # Python's integers: step * batch_size may exceed int32
        epoch, offset = divmod(start, num_images)
        epochs = range(epoch, (start + batch_size - 1) // num_images + 1)
        cached = permutations
        current = {e: cached[e] if e in cached else permute(e) for e in epochs}
        permutations = current
        stream = np.concatenate([current[e] for e in epochs])
        return stream[offset : offset + batch_size]

    return batch_indices


def hash_images(splits: Sequence[Split]) -> str:
    """SHA-256 of the whole image arrays that `splits` are parts of, hexadecimal; about 1 s per GB.

    Of shapes and pixels, wherever the files lie. Splits of one file count once, so that it also
    tells whether the validation images were carved out of the training images.
    """
    arrays = {getattr(s.images, "filename", None) or id(s.images): s.images for s in splits}
    digest = hashlib.sha256()
    for images in arrays.values():
        digest.update(f"{images.dtype} {images.shape} ".encode())
        step = max(1, _HASHED_AT_A_TIME // images[0].nbytes)
        for start in range(0, len(images), step):
            digest.update(np.ascontiguousarray(images[start : start + step]))
    return digest.hexdigest()


def dataset_directory(
    name: str, data_dir: str = DEFAULT_DATA_DIR, crop: int = 148, image_size: int = 64
) -> pathlib.Path:
    """Where the arrays of a dataset are; CelebA's directory carries its crop and size in pixels."""
    if name.strip(".") == "":
        raise ValueError(f"dataset name {name!r}: must be a name or a path with a separator.")
    if "/" in name or os.sep in name:
        return pathlib.Path(name).expanduser()
    if name == "celeb_a":
        width, _ = data_sources.CELEB_A_IMAGE_SIZE
        _check_integer("crop", crop, 1, width)
        _check_integer("image_size", image_size, 1)
        name = f"celeb_a_crop{crop}_{image_size}"
    return pathlib.Path(data_dir).expanduser() / name


def prepare(
    name: str, data_dir: str = DEFAULT_DATA_DIR, crop: int = 148, image_size: int = 64
) -> pathlib.Path:
    """Returns the directory of a dataset, after writing its arrays where there are none.

    Raises:
      ValueError: unknown name, an incomplete directory, or no source of the data.
    """
    directory = dataset_directory(name, data_dir, crop, image_size)
    missing = [f for f in ("train_images.npy", "test_images.npy") if not (directory / f).exists()]
    if not missing:
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"dataset {name!r}: {directory} lacks {' and '.join(missing)}, it needs both. Add what "
            "is missing, or remove the directory to have a named dataset prepared again."
        )
    if name not in data_sources.NAMES:
        raise ValueError(_unknown_name(name, directory, pathlib.Path(data_dir).expanduser()))
    tfds_directory = directory.parent / "tensorflow_datasets"
    data_sources.prepare_arrays(name, directory, tfds_directory, crop, image_size)
    return directory


def _unknown_name(name: str, directory: pathlib.Path, data_dir: pathlib.Path) -> str:
    placed = sorted(path.parent.name for path in data_dir.glob("*/train_images.npy"))
    remedy = "Place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) there"
    if name == _CELEB_A_SUBSET:
        remedy += (
            ": it is a subset of CelebA, 10,000 faces cropped to 148 x 148 and resized to 64 x 64, "
            "that is nowhere to download; celeb_a prepares the whole dataset"
        )
    return (
        f"dataset {name!r}: not one of {', '.join(data_sources.NAMES)}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(placed) or 'none'}). {remedy}."
    )


def _open_array(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not a whole .npy file of numbers ({error}). Write it again with np.save."
        ) from error


def _open_images(path: pathlib.Path) -> np.ndarray:
    """Maps an image file and checks it; uint8 `[N, H, W, C]`."""
    images = _open_array(path)
    if images.dtype != np.uint8:
        raise ValueError(
            f"{path}: dtype {images.dtype}, must be uint8 (0 to 255). Images in [0, 1]: save "
            "np.round(images * 255).astype(np.uint8)."
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"{path}: shape {images.shape}, must be [N, H, W, C] with C 1 or 3. Grey images: save "
            "images[..., np.newaxis]; channels first: np.moveaxis(images, 1, -1)."
        )
    if len(images) == 0:
        raise ValueError(f"{path}: shape {images.shape}, must hold at least one image. Add images.")
    rows = np.linspace(0, len(images) - 1, min(len(images), _NUM_IMAGES_CHECKED)).astype(np.int64)
    maximum = images[rows].max()
    if maximum <= 1:
        raise ValueError(
            f"{path}: the largest value in a sample of {len(rows)} images is {maximum}, must be on "
            "the scale 0 to 255. Images in [0, 1]: multiply by 255 before the cast to uint8."
        )
    return images


def _open_labels(path: pathlib.Path, num_images: int) -> np.ndarray | None:
    if not path.exists():
        return None
    labels = _open_array(path)
    if labels.dtype != np.uint8 or labels.shape != (num_images,):
        raise ValueError(
            f"{path}: {labels.dtype} of shape {labels.shape}, must be uint8 of shape "
            f"({num_images},), one label per image. Save one label per image with "
            "labels.astype(np.uint8), or remove the file: labels are optional."
        )
    return labels


def _check_same_shape(directory: pathlib.Path, split: str, images: np.ndarray) -> None:
    train_shape = _open_images(directory / "train_images.npy").shape[1:]
    if images.shape[1:] != train_shape:
        raise ValueError(
            f"{directory / f'{split}_images.npy'}: images of shape {images.shape[1:]}, must be "
            f"{train_shape} as in train_images.npy. Resize one of the two."
        )


def _carve(num_images: int, split: str, validation_size: int) -> np.ndarray:
    """The rows of the training images that make up 'train' or 'validation', in ascending order."""
    is_validation = split == "validation"
    minimum = 1 if is_validation else 0
    if not hasattr(validation_size, "__index__") or not minimum <= validation_size < num_images:
        raise ValueError(
            f"validation_size={validation_size}: must be at least {minimum} to load the {split} "
            f"split, and less than the {num_images} images of train_images.npy, its source. "
            "Change it, or place validation_images.npy beside train_images.npy."
        )
    permutation = np.random.default_rng(0).permutation(num_images)
    rows = permutation[:validation_size] if is_validation else permutation[validation_size:]
    return np.sort(rows)


def _check_integer(key: str, value: int, minimum: int, maximum: int | None = None) -> None:
    is_integer = hasattr(value, "__index__")
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{key}={value!r}: must be an integer, at least {minimum}{upper}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare a dataset and print what is there.")
    parser.add_argument("name", help=f"{', '.join(data_sources.NAMES)}, or a directory of arrays")
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR)
    parser.add_argument("--crop", type=int, default=148, help="pixels, celeb_a only")
    parser.add_argument("--image_size", type=int, default=64, help="pixels, celeb_a only")
    arguments = parser.parse_args()
    try:
        directory = prepare(**vars(arguments))
        print(directory)
        for split in SPLITS:
            path = directory / f"{split}_images.npy"
            if path.exists():
                images = _open_images(path)
                labels = _open_labels(directory / f"{split}_labels.npy", len(images))
                print(f"  {split}: {images.shape}, {'no labels' if labels is None else 'labels'}")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
