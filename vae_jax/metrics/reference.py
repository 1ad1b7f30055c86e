"""Features of real images, computed once and kept on disk."""

import hashlib
import logging
import pathlib
import zipfile

import numpy as np

from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import GaussianStatistics

BLOCK_SIZE = 500  # images between two updates of the progress bar


def reference_features(
    extractor: FeatureExtractor, images: np.ndarray, name: str, cache_dir: pathlib.Path
) -> FeatureSet:
    """Features of `images`, read from `cache_dir` where they have been computed before.

    The file's name carries a hash of all that the numbers depend on: the images' content, number,
    order and size, the preprocessing, the taps and the weights.

    Args:
      extractor: of the features.
      images: uint8 [N, H, W, C], in random order if the first 10,000 are to stand for all.
      name: of the images, for the file's name and the progress bar: 'fashion_mnist-test'.
      cache_dir: created if missing.

    Returns:
      The features without logits, which no comparison of two sets needs.
    """
    path = cache_dir / f"{name}-{len(images)}-{_digest(extractor, images)}.npz"
    if path.exists():
        try:
            return _load(path, extractor.taps)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.getLogger(__name__).warning("%s is damaged (%s): made anew.", path, error)
    blocks = (images[i : i + BLOCK_SIZE] for i in range(0, len(images), BLOCK_SIZE))
    features = extractor.feature_set(blocks, len(images), f"features of {name}")
    _save(path, features)
    return FeatureSet(features.statistics, features.features)


def _digest(extractor: FeatureExtractor, images: np.ndarray) -> str:
    sha256 = hashlib.sha256(np.ascontiguousarray(images))
    key = (images.shape, extractor.preprocessing, extractor.taps, extractor.weights.digest)
    sha256.update(repr(key).encode())
    return sha256.hexdigest()[:16]


def _save(path: pathlib.Path, features: FeatureSet) -> None:
    arrays = {}
    for tap, statistics in features.statistics.items():
        arrays |= {
            f"{tap}/count": statistics.count,
            f"{tap}/mean": statistics.mean,
            f"{tap}/scatter": statistics.scatter,
            f"{tap}/features": features.features[tap],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def _load(path: pathlib.Path, taps: tuple[int, ...]) -> FeatureSet:
    with np.load(path) as arrays:
        statistics = {
            tap: GaussianStatistics(
                int(arrays[f"{tap}/count"]), arrays[f"{tap}/mean"], arrays[f"{tap}/scatter"]
            )
            for tap in taps
        }
        return FeatureSet(statistics, {tap: arrays[f"{tap}/features"] for tap in taps})
