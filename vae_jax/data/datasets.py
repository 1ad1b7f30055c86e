"""Locates dataset directories and prepares named datasets on first use."""

import os
import pathlib
from typing import Any

from vae_jax.data import sources
from vae_jax.errors import InputError
from vae_jax.runtime.names import expand_user

DEFAULT_DATA_DIR = "~/.cache/vae_jax"
CELEB_A_SUBSET = "celeb_a_10k_crop148_64"  # of configs/celeba_10k*.py; cannot be downloaded


def dataset_directory(name: str, data_dir: str = DEFAULT_DATA_DIR, **options: Any) -> pathlib.Path:
    """Returns the directory of a dataset's arrays; its name may depend on the options.

    Raises:
      InputError: an empty name, or an option of the dataset that breaks a rule.
    """
    if name.strip(".") == "":
        raise InputError(f"dataset name {name!r}: must be a name or a path with a separator.")
    if "/" in name or os.sep in name:
        return expand_user(name, "data.name")
    if name in sources.REGISTRY:
        name = sources.create_source(name, **options).directory_name
    return expand_user(data_dir, "data.dir") / name


def prepare(name: str, data_dir: str = DEFAULT_DATA_DIR, **options: Any) -> pathlib.Path:
    """Returns the directory of a dataset, after preparing the arrays of a named dataset if needed.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      data_dir: directory of the prepared datasets; `~` is expanded.
      **options: options of named datasets, such as the crop and the image_size of celeb_a; those of
        others have no effect.

    Raises:
      InputError: unknown name, an incomplete directory, or no source of the data.
    """
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
        raise InputError(_describe_unknown(name, directory, expand_user(data_dir, "data.dir")))
    tfds_directory = directory.parent / "tensorflow_datasets"
    sources.prepare_arrays(sources.create_source(name, **options), directory, tfds_directory)
    return directory


def class_name(dataset: str, label: int) -> str:
    """Returns the name of a class, such as 'bag', or 'class 8' if no name is known."""
    known = dataset in sources.REGISTRY
    names = sources.REGISTRY[dataset].class_names if known else ()
    return names[label] if label < len(names) else f"class {label}"


def _describe_unknown(name: str, directory: pathlib.Path, data_dir: pathlib.Path) -> str:
    """Returns the message for a name that is neither a named dataset nor a directory of arrays."""
    available = sorted(path.parent.name for path in data_dir.glob("*/train_images.npy"))
    remedy = "Place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) there"
    if name == CELEB_A_SUBSET:
        remedy += (
            ": it is a subset of CelebA, 10,000 faces cropped to 148 x 148 and resized to 64 x 64, "
            "which cannot be downloaded; celeb_a prepares the whole dataset"
        )
    return (
        f"dataset {name!r}: not one of {', '.join(sources.names())}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(available) or 'none'}). {remedy}."
    )
