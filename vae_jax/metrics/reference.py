"""Features of real images, computed once and kept on disk."""

import hashlib
import logging
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from vae_jax.data import Split
from vae_jax.metrics.features import NUM_KEPT, FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import GaussianStatistics
from vae_jax.runtime.memory import COMPARED, num_in_memory

LOGGER = logging.getLogger(__name__)

VERSION = 1  # of the cache: increase it when the network or the preprocessing changes
BLOCK_SIZE = 500  # images read at a time; fewer large ones


def reference_features(
    extractor: FeatureExtractor, images: np.ndarray | Split, name: str, cache_dir: pathlib.Path
) -> FeatureSet:
    """Computes the features of `images`, or reads them from `cache_dir` if they are there.

    The file name contains a hash of everything that the features depend on: the content, number,
    order and size of the images, the preprocessing, the taps and the weights.

    Args:
      extractor: computes the features.
      images: uint8 [N, H, W, C], or a split, which is read block by block; in random order if the
        first 10,000 are to represent all.
      name: name of the images in file name and progress bar, such as 'fashion_mnist-test'.
      cache_dir: directory of the files, created if missing.

    Returns:
      The features without logits, which no comparison of two sets needs.
    """
    path = cache_dir / f"{name}-{len(images)}-{_digest(extractor, images)}.npz"
    if path.exists():
        try:
            return _load(path, extractor.taps)
        except Exception as error:  # what zipfile and NumPy raise for a damaged file has no end
            LOGGER.warning("%s is damaged (%s): computing the features again.", path, error)
    features = extractor.feature_set(_blocks(images), len(images), f"features of {name}")
    try:
        _save(path, features)
    except OSError as error:
        LOGGER.warning(
            "%s cannot be written (%s): the features must be computed again next time.", path, error
        )
    return FeatureSet(features.statistics, features.features)


def _blocks(images: np.ndarray | Split) -> Iterator[np.ndarray]:
    """Yields blocks of images, uint8 [n, H, W, C] each."""
    size = num_in_memory(_image_shape(images), BLOCK_SIZE, COMPARED)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        yield images.take(rows) if isinstance(images, Split) else images[rows]


def _image_shape(images: np.ndarray | Split) -> tuple[int, ...]:
    return images.image_shape if isinstance(images, Split) else images.shape[1:]


def _digest(extractor: FeatureExtractor, images: np.ndarray | Split) -> str:
    """Returns 16 hexadecimal digits of the hash in the file name."""
    sha256 = hashlib.sha256()
    for block in _blocks(images):
        sha256.update(np.ascontiguousarray(block).data)
    key = (
        *(VERSION, NUM_KEPT, (len(images), *_image_shape(images))),
        *(extractor.preprocessing, extractor.taps, extractor.weights.digest),
    )
    sha256.update(repr(key).encode())
    return sha256.hexdigest()[:16]


def _save(path: pathlib.Path, features: FeatureSet) -> None:
    arrays: dict[str, Any] = {}  # Any, because np.savez also takes options as keywords
    for tap, statistics in features.statistics.items():
        arrays |= {
            f"{tap}/count": statistics.count,
            f"{tap}/mean": statistics.mean,
            f"{tap}/scatter": statistics.scatter,
            f"{tap}/features": features.features[tap],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a directory of its own, because two evaluations may run at the same time.
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        temporary = pathlib.Path(directory) / path.name
        np.savez(temporary, **arrays)
        temporary.replace(path)


def _load(path: pathlib.Path, taps: tuple[int, ...]) -> FeatureSet:
    with path.open("rb") as file, np.load(file) as arrays:  # np.load leaves a bad file open
        statistics = {
            tap: GaussianStatistics(
                int(arrays[f"{tap}/count"]), arrays[f"{tap}/mean"], arrays[f"{tap}/scatter"]
            )
            for tap in taps
        }
        return FeatureSet(statistics, {tap: arrays[f"{tap}/features"] for tap in taps})
