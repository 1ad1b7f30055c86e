"""Locates dataset directories and prepares named datasets on first use."""

import os
import pathlib
from typing import Any

from vae_jax.data import sources
from vae_jax.data.contents import REQUIRED, describe_contents
from vae_jax.errors import InputError
from vae_jax.files import expand
from vae_jax.runtime.workdir import describe_os_error

DEFAULT_DATA_DIR = "~/.cache/vae_jax"
CELEB_A_SUBSET = "celeb_a_10k_crop148_64"  # of configs/celeba_10k*.py; cannot be downloaded


def dataset_directory(name: str, data_dir: str = DEFAULT_DATA_DIR, **options: Any) -> pathlib.Path:
    """Returns the directory of a dataset's arrays; its name may depend on the options.

    Raises:
      InputError: an empty name, a path that cannot exist, or an option of the dataset that breaks a
        rule.
    """
    if name.strip(".") == "":
        raise InputError(f"dataset name {name!r}: must be a name or a path with a separator.")
    if is_path(name):
        return expand("data.name", name)
    if name in sources.REGISTRY:
        name = sources.create_source(name, **options).directory_name
    return expand("data.name", expand("data.dir", data_dir) / name)


def is_path(name: str) -> bool:
    """Returns whether a dataset is named by the path of its directory."""
    return "/" in name or os.sep in name


def locate(name: str, data_dir: str, **options: Any) -> tuple[str, str | None]:
    """Returns name and data_dir of a dataset that is in `data_dir` now; None: no other data_dir.

    Args:
      name: the name with which a run was trained: a name, or a path.
      data_dir: the directory of its arrays, or the one above.
      **options: options of named datasets, as for `prepare`.

    Raises:
      InputError: neither directory has the arrays.
    """
    place = expand("data_dir", data_dir)
    directory_name = dataset_directory(name, data_dir, **options).name
    for directory in (place / directory_name, place):
        if not (directory / "train_images.npy").exists():
            continue
        if not is_path(name) and directory.name == directory_name:
            return name, str(directory.parent)
        return str(directory.absolute()), None
    if name in sources.REGISTRY:
        return name, data_dir  # where it is prepared on first use
    raise InputError(
        f"data_dir = {data_dir!r}: neither {place / directory_name} nor {place} has a "
        f"train_images.npy, so it is not where the dataset {name!r} is: give the directory of its "
        "arrays, or the one above."
    )


def prepare(name: str, data_dir: str = DEFAULT_DATA_DIR, **options: Any) -> pathlib.Path:
    """Returns the directory of a dataset, after preparing the arrays of a named dataset if needed.

    Args:
      name: a named dataset, a directory of arrays below `data_dir`, or a path (with a separator).
      data_dir: directory of the prepared datasets; `~` is expanded.
      **options: options of named datasets, such as the crop and the image_size of celeb_a; those of
        others have no effect.

    Raises:
      InputError: unknown name, a directory that is incomplete, holds something else or cannot be
        read or written, or no source of the data.
    """
    directory = dataset_directory(name, data_dir, **options)
    if all(os.path.lexists(directory / file) for file in REQUIRED):
        return directory
    is_named = name in sources.REGISTRY
    contents = describe_contents(directory, is_named)
    if contents:
        raise InputError(f"dataset {name!r}: {contents}")
    if not is_named:
        raise InputError(_describe_unknown(name, directory, expand("data.dir", data_dir)))
    tfds_directory = directory.parent / "tensorflow_datasets"
    try:
        sources.prepare_arrays(sources.create_source(name, **options), directory, tfds_directory)
    except OSError as error:
        reason = describe_os_error(error, directory.parent)
        raise InputError(
            f"data.dir={str(data_dir)!r}: dataset {name!r} cannot be prepared there: {reason} "
            "Another data.dir helps as well."
        ) from error
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
    elif directory != pathlib.Path(name) and pathlib.Path(name).exists():
        remedy += f", or give data.name=./{name} for that of the working directory"
    return (
        f"dataset {name!r}: not one of {', '.join(sources.names())}, and {directory} holds no "
        f"arrays (data_dir {data_dir} has arrays of: {', '.join(available) or 'none'}). {remedy}."
    )
