"""Features of real images, computed once and kept on disk."""

import hashlib
import logging
import pathlib
import tempfile
from typing import Any

import numpy as np

from vae_jax.metrics.features import NUM_KEPT, FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import GaussianStatistics

LOGGER = logging.getLogger(__name__)

VERSION = 1  # of the cache: increase it when the network or the preprocessing changes
BLOCK_SIZE = 500  # images between two updates of the progress bar


def reference_features(
    extractor: FeatureExtractor, images: np.ndarray, name: str, cache_dir: pathlib.Path
) -> FeatureSet:
    """Computes the features of `images`, or reads them from `cache_dir` if they are there.

    The file name contains a hash of everything that the features depend on: the content, number,
    order and size of the images, the preprocessing, the taps and the weights.

    Args:
      extractor: computes the features.
      images: uint8 [N, H, W, C], in random order if the first 10,000 are to represent all.
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
    blocks = (images[i : i + BLOCK_SIZE] for i in range(0, len(images), BLOCK_SIZE))
    features = extractor.feature_set(blocks, len(images), f"features of {name}")
    try:
        _save(path, features)
    except OSError as error:
        LOGGER.warning(
            "%s cannot be written (%s): the features must be computed again next time.", path, error
        )
    return FeatureSet(features.statistics, features.features)


def _digest(extractor: FeatureExtractor, images: np.ndarray) -> str:
    """Returns 16 hexadecimal digits of the hash in the file name."""
    sha256 = hashlib.sha256(np.ascontiguousarray(images).data)
    key = (
        *(VERSION, NUM_KEPT, images.shape),
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
