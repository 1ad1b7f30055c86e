"""Locates dataset directories and prepares named datasets on first use."""

import os
import pathlib

from vae_jax.data import sources
from vae_jax.errors import InputError, check_integer

DEFAULT_DATA_DIR = "~/.cache/vae_jax"
_CELEB_A_SUBSET = "celeb_a_10k_crop148_64"  # of configs/celeba_10k*.py; cannot be downloaded


def dataset_directory(
    name: str, data_dir: str = DEFAULT_DATA_DIR, crop: int = 148, image_size: int = 64
) -> pathlib.Path:
    """Returns the directory of a dataset's arrays.

    The name of CelebA's directory contains the crop and the image size in pixels.

    Raises:
      InputError: an empty name, or a crop or an image size out of range.
    """
    if name.strip(".") == "":
        raise InputError(f"dataset name {name!r}: must be a name or a path with a separator.")
    if "/" in name or os.sep in name:
        return pathlib.Path(name).expanduser()
    if name == "celeb_a":
        width, _ = sources.CELEB_A_IMAGE_SIZE
        check_integer("crop", crop, 1, width)
        check_integer("image_size", image_size, 1)
        name = f"celeb_a_crop{crop}_{image_size}"
    return pathlib.Path(data_dir).expanduser() / name


def prepare(
    name: str, data_dir: str = DEFAULT_DATA_DIR, crop: int = 148, image_size: int = 64
) -> pathlib.Path:
    """Returns the directory of a dataset, after preparing the arrays of a named dataset if needed.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      data_dir: directory of the prepared datasets; `~` is expanded.
      crop: side of the central square cut from a CelebA image, in pixels.
      image_size: side of the prepared CelebA images, in pixels.

    Raises:
      InputError: unknown name, an incomplete directory, or no source of the data.
    """
    directory = dataset_directory(name, data_dir, crop, image_size)
    missing = [f for f in ("train_images.npy", "test_images.npy") if not (directory / f).exists()]
    if not missing:
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"dataset {name!r}: {directory} lacks {' and '.join(missing)}; a dataset needs "
            "train_images.npy and test_images.npy. Add what is missing, or remove the directory to "
            "have a named dataset prepared again."
        )
    if name not in sources.NAMES:
        raise InputError(_describe_unknown(name, directory, pathlib.Path(data_dir).expanduser()))
    tfds_directory = directory.parent / "tensorflow_datasets"
    sources.prepare_arrays(name, directory, tfds_directory, crop, image_size)
    return directory


def _describe_unknown(name: str, directory: pathlib.Path, data_dir: pathlib.Path) -> str:
    """Returns the message for a name that is neither a named dataset nor a directory of arrays."""
    available = sorted(path.parent.name for path in data_dir.glob("*/train_images.npy"))
    remedy = "Place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) there"
    if name == _CELEB_A_SUBSET:
        remedy += (
            ": it is a subset of CelebA, 10,000 faces cropped to 148 x 148 and resized to 64 x 64, "
            "which cannot be downloaded; celeb_a prepares the whole dataset"
        )
    return (
        f"dataset {name!r}: not one of {', '.join(sources.NAMES)}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(available) or 'none'}). {remedy}."
    )
