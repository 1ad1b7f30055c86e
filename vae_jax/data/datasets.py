"""Locates dataset directories and prepares named datasets on first use."""

import os
import pathlib
from typing import Any

from vae_jax.data import sources
from vae_jax.errors import InputError

DEFAULT_DATA_DIR = "~/.cache/vae_jax"


def dataset_directory(
    name: str,
    data_dir: str = DEFAULT_DATA_DIR,
    crop: int = 148,
    image_size: int = 64,
    **options: Any,
) -> pathlib.Path:
    """Returns the directory of a dataset's arrays; its name may depend on the options.

    Raises:
      InputError: an empty name, or an option of the dataset that breaks a rule.
    """
    if name.strip(".") == "":
        raise InputError(f"dataset name {name!r}: must be a name or a path with a separator.")
    if "/" in name or os.sep in name:
        return pathlib.Path(name).expanduser()
    if name in sources.REGISTRY:
        options |= {"crop": crop, "image_size": image_size}
        name = sources.create_source(name, **options).directory_name
    return pathlib.Path(data_dir).expanduser() / name


def prepare(
    name: str,
    data_dir: str = DEFAULT_DATA_DIR,
    crop: int = 148,
    image_size: int = 64,
    **options: Any,
) -> pathlib.Path:
    """Returns the directory of a dataset, after preparing the arrays of a named dataset if needed.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      data_dir: directory of the prepared datasets; `~` is expanded.
      crop: side of the central square cut from a CelebA image, in pixels.
      image_size: side of the prepared CelebA images, in pixels.
      **options: options of other named datasets.

    Raises:
      InputError: unknown name, an incomplete directory, or no source of the data.
    """
    options |= {"crop": crop, "image_size": image_size}
    directory = dataset_directory(name, data_dir, **options)
    missing = [f for f in ("train_images.npy", "test_images.npy") if not (directory / f).exists()]
    if not missing:
        return directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"dataset {name!r}: {directory} lacks {' and '.join(missing)}; a dataset needs "
            "train_images.npy and test_images.npy. Add what is missing, or remove the directory to "
            "have a named dataset prepared again."
        )
    if name not in sources.REGISTRY:
        raise InputError(_describe_unknown(name, directory, pathlib.Path(data_dir).expanduser()))
    tfds_directory = directory.parent / "tensorflow_datasets"
    sources.prepare_arrays(sources.create_source(name, **options), directory, tfds_directory)
    return directory


def describe(name: str, **options: Any) -> str:
    """Returns a dataset's name, and what was done to the images of a named dataset."""
    return sources.create_source(name, **options).describe() if name in sources.REGISTRY else name


def _describe_unknown(name: str, directory: pathlib.Path, data_dir: pathlib.Path) -> str:
    """Returns the message for a name that is neither a named dataset nor a directory of arrays."""
    available = sorted(path.parent.name for path in data_dir.glob("*/train_images.npy"))
    remedy = "Place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) there"
    remedy += "".join(sources.REGISTRY[source].explain_missing(name) for source in sources.names())
    return (
        f"dataset {name!r}: not one of {', '.join(sources.names())}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(available) or 'none'}). {remedy}."
    )
