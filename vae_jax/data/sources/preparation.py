"""Decodes a named dataset into arrays, and says how to get it if that fails."""

import contextlib
import fcntl
import importlib.util
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm

from vae_jax.data.sources.base import Source
from vae_jax.errors import InputError

LOGGER = logging.getLogger(__name__)

CHUNK_SIZE = 512  # images decoded between two updates of the progress bar


def prepare_arrays(source: Source, directory: pathlib.Path, tfds_directory: pathlib.Path) -> None:
    """Writes `{split}_images.npy` and `{split}_labels.npy` of a named dataset into `directory`.

    The files are written to a temporary directory beside `directory`, which is renamed at the end.
    So `directory` either holds all arrays or does not exist, however the preparation ends. What a
    killed one has left is removed by the next one. While one process prepares the dataset, others
    wait.

    Args:
      source: the dataset.
      directory: directory of the arrays; must be missing or empty.
      tfds_directory: directory of TFDS's downloads, kept so that another crop needs no download.

    Raises:
      InputError: no source could be read; the message lists the ways to get the data.
      OSError: the arrays cannot be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{directory.name}-"
    with _lock(directory.parent / f".{source.name}.lock") as is_alone:
        if (directory / "train_images.npy").exists():  # another process was faster
            return
        for abandoned in directory.parent.glob(f"{prefix}*") if is_alone else ():
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=prefix) as scratch:
            arrays = _write_arrays(source, directory, tfds_directory, pathlib.Path(scratch))
            try:
                arrays.rename(directory)
            except OSError:  # another process was faster; its arrays are the same
                if not (directory / "train_images.npy").exists():
                    raise


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[bool]:
    """Waits until no other process has the lock, which ends with a process, however it ends.

    Yields whether this process has the lock: some network file systems have no locks.
    """
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOGGER.info("Another process prepares the dataset: waiting for it (%s).", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _write_arrays(
    source: Source, directory: pathlib.Path, tfds_directory: pathlib.Path, scratch: pathlib.Path
) -> pathlib.Path:
    """Writes all splits of a dataset into a directory in `scratch`, and returns that directory."""
    local = source.local_directory
    if local:  # copied again within seconds, so not worth keeping twice on disk
        tfds_directory = scratch / "tensorflow_datasets"
    try:
        splits = open_data_sources(source, tfds_directory)
    except Exception as error:
        origin = local or "TensorFlow Datasets"
        reason = f"{origin} failed: {type(error).__name__}: {str(error).strip()[:300]}"
        raise InputError(_list_ways(source, directory, tfds_directory, reason)) from error
    arrays = scratch / "arrays"
    arrays.mkdir()
    for split, examples in splits.items():
        _write_split(examples, arrays, split, source.transform)
    return arrays


def _create(path: pathlib.Path, *shape: int) -> np.memmap:
    """Maps a new file of uint8, whose space on disk is reserved.

    Without space, the system would end a process that writes to the map, with no message.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _write_split(
    examples: Any,
    directory: pathlib.Path,
    split: str,
    transform: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Decodes one split of a TFDS data source into memory-mapped files, a chunk at a time."""
    first = examples[0]
    image_shape = transform(first["image"]).shape
    images = _create(directory / f"{split}_images.npy", len(examples), *image_shape)
    labels = None
    if "label" in first:
        labels = _create(directory / f"{split}_labels.npy", len(examples))
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
