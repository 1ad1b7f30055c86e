"""Decodes a named dataset into arrays, and says how to get it if that fails."""

import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tqdm

from vae_jax.data.sources.base import Source
from vae_jax.errors import InputError

CHUNK_SIZE = 512  # images decoded between two updates of the progress bar


def prepare_arrays(source: Source, directory: pathlib.Path, tfds_directory: pathlib.Path) -> None:
    """Writes `{split}_images.npy` and `{split}_labels.npy` of a named dataset into `directory`.

    The files are written to a temporary directory beside `directory`, which is renamed at the end.
    So `directory` either holds all arrays or does not exist, however the preparation ends.

    Args:
      source: the dataset.
      directory: directory of the arrays; must be missing or empty.
      tfds_directory: directory of TFDS's downloads, kept so that another crop needs no download.

    Raises:
      InputError: no source could be read; the message lists the ways to get the data.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        local = source.local_directory
        origin = local or "TensorFlow Datasets"
        if local:  # copied again within seconds, so not worth keeping twice on disk
            tfds_directory = pathlib.Path(scratch) / "tensorflow_datasets"
        try:
            splits = open_data_sources(source, tfds_directory)
        except Exception as error:
            reason = f"{origin} failed: {type(error).__name__}: {str(error).strip()[:300]}"
            raise InputError(_list_ways(source, directory, tfds_directory, reason)) from error
        arrays = pathlib.Path(scratch) / "arrays"
        arrays.mkdir()
        for split, examples in splits.items():
            _write_split(examples, arrays, split, source.transform)
        try:
            arrays.rename(directory)
        except OSError:  # another process was faster; its arrays are the same
            if not (directory / "train_images.npy").exists():
                raise


def _write_split(
    examples: Any,
    directory: pathlib.Path,
    split: str,
    transform: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Decodes one split of a TFDS data source into memory-mapped files, a chunk at a time."""
    first = examples[0]
    create = functools.partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    image_shape = transform(first["image"]).shape
    images = create(directory / f"{split}_images.npy", shape=(len(examples), *image_shape))
    labels = None
    if "label" in first:
        labels = create(directory / f"{split}_labels.npy", shape=(len(examples),))
    with tqdm.tqdm(
        total=len(examples), desc=f"decoding {split}", unit=" images", disable=None
    ) as progress:
        for start in range(0, len(examples), CHUNK_SIZE):
            rows = range(start, min(start + CHUNK_SIZE, len(examples)))
            for row, example in zip(rows, examples.__getitems__(rows), strict=True):
                images[row] = transform(example["image"])
                if labels is not None:
                    labels[row] = example["label"]
            progress.update(len(rows))


def open_data_sources(source: Source, tfds_directory: pathlib.Path) -> dict[str, Any]:
    """Prepares a dataset with its builder and returns split -> sequence of examples."""
    builder = source.builder()(data_dir=tfds_directory)
    builder.download_and_prepare(file_format="array_record")
    return builder.as_data_source()


def _list_ways(
    source: Source, directory: pathlib.Path, tfds_directory: pathlib.Path, reason: str
) -> str:
    """Returns a message with the ways to get a dataset that could not be prepared."""
    ways = []
    if importlib.util.find_spec("tensorflow_datasets") is None:
        ways.append(
            "pip install tensorflow-datasets beautifulsoup4, the extra vae_jax[datasets], and run "
            "again"
        )
    ways.append(
        f"place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) in {directory}"
    )
    ways += source.more_ways(tfds_directory)
    ways.append(
        f"run `python -m vae_jax.data {source.name}` on a machine with a network, where TensorFlow "
        f"Datasets downloads it, and copy the directory it prints to {directory}"
    )
    numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, start=1))
    return (
        f"dataset {source.name!r}: no arrays in {directory}, and {reason}. Ways to get it: "
        f"{numbered}."
    )
