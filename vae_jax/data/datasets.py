"""Where datasets are stored, and their preparation on first use."""

import os
import pathlib

from vae_jax.data import sources
from vae_jax.errors import InputError, check_integer

DEFAULT_DATA_DIR = "~/.cache/vae_jax"
_CELEB_A_SUBSET = "celeb_a_10k_crop148_64"


def dataset_directory(
    name: str, data_dir: str = DEFAULT_DATA_DIR, crop: int = 148, image_size: int = 64
) -> pathlib.Path:
    """Where the arrays of a dataset are; CelebA's directory carries its crop and size in pixels."""
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
    """Returns the directory of a dataset, after writing its arrays where there are none.

    Raises:
      ValueError: unknown name, an incomplete directory, or no source of the data.
    """
    directory = dataset_directory(name, data_dir, crop, image_size)
    missing = [f for f in ("train_images.npy", "test_images.npy") if not (directory / f).exists()]
    if not missing:
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"dataset {name!r}: {directory} lacks {' and '.join(missing)}, it needs both. Add what "
            "is missing, or remove the directory to have a named dataset prepared again."
        )
    if name not in sources.NAMES:
        raise InputError(_unknown_name(name, directory, pathlib.Path(data_dir).expanduser()))
    tfds_directory = directory.parent / "tensorflow_datasets"
    sources.prepare_arrays(name, directory, tfds_directory, crop, image_size)
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
        f"dataset {name!r}: not one of {', '.join(sources.NAMES)}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(placed) or 'none'}). {remedy}."
    )
