"""Inception features of sets of images, reduced to what the sample metrics need."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vae_jax.errors import InputError
from vae_jax.metrics.frechet import GaussianStatistics
from vae_jax.metrics.inception import IMAGE_SIZE, LOGITS, InceptionV3
from vae_jax.metrics.inception_weights import InceptionWeights
from vae_jax.runtime import sharding
from vae_jax.runtime.settings import standard_settings
from vae_jax.typing import PyTree

NUM_KEPT = 10_000  # images of a set whose features stay in memory; the set may be much larger
BATCH_SIZE = 128  # images per call on each accelerator
CPU_BATCH_SIZE = 8  # images per call on the CPU; the feature maps of more do not fit its caches
# YNNPACK, XLA's default for convolutions on the CPU, takes 1.4 times as long on this network as XLA
# without it.
CPU_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def preprocess_pytorch_fid(images: jax.Array) -> jax.Array:
    """Prepares uint8 [B, H, W, C] as pytorch-fid does: [B, 299, 299, C] in [-1, 1].

    Bilinear without antialiasing, half-pixel centres (torch's align_corners=False).
    """
    x = _resize(images.astype(jnp.float32) / 255.0, "linear", antialias=False)
    return 2.0 * x - 1.0


def preprocess_clean(images: jax.Array) -> jax.Array:
    """Prepares uint8 [B, H, W, C] as clean-fid does: [B, 299, 299, C] in [-1, 1).

    Pillow's bicubic filter on floating-point numbers (Parmar et al. 2022, arXiv:2104.11222). The
    network that clean-fid downloads scales its input by (x - 128) / 128.
    """
    x = _resize(images.astype(jnp.float32), "cubic", antialias=True)
    return (jnp.clip(x, 0.0, 255.0) - 128.0) / 128.0


def _resize(x: jax.Array, method: str, antialias: bool) -> jax.Array:
    shape = (x.shape[0], IMAGE_SIZE, IMAGE_SIZE, x.shape[-1])
    return jax.image.resize(x, shape, method, antialias)


def _num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_whole_batches(blocks: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Regroups images into blocks of a multiple of `batch_size`, except for the last block."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        num_whole = sum(map(len, waiting)) // batch_size * batch_size
        if num_whole:
            images = np.concatenate(waiting)
            yield images[:num_whole]
            waiting = [images[num_whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


PREPROCESSING = {"pytorch_fid": preprocess_pytorch_fid, "clean": preprocess_clean}


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of N images, reduced to what the metrics need.

    Attributes:
      statistics: tap -> mean and covariance over all images.
      features: tap -> features of the first images, float32 [min(N, 10,000), tap].
      logits: class logits, float32 [N, 1008], or None if the weights have no logits.
    """

    statistics: dict[int, GaussianStatistics]
    features: dict[int, np.ndarray]
    logits: np.ndarray | None = None

    def __len__(self) -> int:
        return next(iter(self.statistics.values())).count

    def first(self, n: int) -> "FeatureSet":
        """Returns the set of the first n images; the whole set if it has no more."""
        if n >= len(self):
            return self
        features = {tap: f[:n] for tap, f in self.features.items()}
        if n > NUM_KEPT:
            raise InputError(
                f"n = {n}: only the features of the first {NUM_KEPT} images are kept, so n must be "
                "at most that or the size of the set."
            )
        statistics = {tap: GaussianStatistics.of(f) for tap, f in features.items()}
        return FeatureSet(statistics, features, None if self.logits is None else self.logits[:n])


class FeatureExtractor:
    """Runs uint8 images through the network, on all devices.

    Attributes:
      weights: weights of the network.
      taps: feature taps that are computed.
      preprocessing: a key of `PREPROCESSING`.
      batch_size: images per call over all devices.
    """

    def __init__(
        self,
        weights: InceptionWeights,
        taps: Sequence[int],
        preprocessing: str = "pytorch_fid",
        mesh: Mesh | None = None,
        batch_size: int | None = None,
    ) -> None:
        missing = [tap for tap in taps if tap not in weights.available_taps]
        if missing or not taps:
            raise InputError(
                f"feature taps {list(taps)} are not available: these weights allow "
                f"{', '.join(map(str, weights.available_taps))}."
            )
        if preprocessing not in PREPROCESSING:
            raise InputError(
                f"preprocessing = {preprocessing!r} is unknown: use one of "
                f"{', '.join(PREPROCESSING)}."
            )
        mesh = sharding.create_mesh() if mesh is None else mesh
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        if batch_size is None:
            batch_size = (CPU_BATCH_SIZE if on_cpu else BATCH_SIZE) * mesh.size
        sharding.check_batch_size("batch_size", batch_size, mesh)
        self.weights, self.taps, self.preprocessing = weights, tuple(taps), preprocessing
        self.batch_size = batch_size
        # One call at a time does not keep all CPU cores busy. An accelerator computes one call
        # while it transfers the data of another.
        self._threads = max(1, _num_cores() // mesh.size) if on_cpu else 2
        self._params = jax.device_put(weights.layers, sharding.replicated(mesh))
        network = InceptionV3()
        outputs = (*self.taps, *([LOGITS] if weights.has_logits else []))

        def features(params: PyTree, images: jax.Array) -> PyTree:
            # GPUs would otherwise round float32 products to TensorFloat-32.
            with jax.default_matmul_precision("highest"):
                x = PREPROCESSING[preprocessing](images)
                x = jnp.broadcast_to(x, (*x.shape[:-1], 3))  # grey images have one channel
                return network.apply({"params": params}, x, outputs)

        batched = sharding.split_axis(mesh)
        self._features = jax.jit(
            features,
            in_shardings=(sharding.replicated(mesh), batched),
            out_shardings=batched,
            compiler_options=sharding.cpu_compiler_options(mesh, CPU_COMPILER_OPTIONS),
        )

    def features(self, images: np.ndarray) -> dict[int, np.ndarray]:
        """Returns {tap: float32 [N, tap]}, including the logits if the weights have them.

        Args:
          images: uint8 [N, H, W, C], 0 to 255, C of 1 or 3.
        """
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) != 4 or not shape[0] or shape[3] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {shape}: the network takes uint8 [N, H, W, C], N at "
                "least 1, C of 1 or 3; convert others with vae_jax.recording.figures.to_uint8."
            )
        n, size = len(images), self.batch_size
        padding = np.repeat(images[-1:], -n % size, axis=0)
        padded = np.concatenate([images, padding])

        @standard_settings()  # of the thread
        def run(start: int) -> dict[int, np.ndarray]:
            return jax.device_get(self._features(self._params, padded[start : start + size]))

        with ThreadPoolExecutor(self._threads) as pool:
            batches = list(pool.map(run, range(0, n, size)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *batches)

    def feature_set(
        self, blocks: Iterable[np.ndarray], num_images: int, description: str | None = None
    ) -> FeatureSet:
        """Computes the feature set of images that come in blocks.

        Args:
          blocks: blocks of images, uint8 [n, H, W, C] each.
          num_images: number of images in all blocks, for the progress bar.
          description: label of the progress bar; None: there is no bar.
        """
        statistics: dict[int, GaussianStatistics] = {}
        kept: dict[int, list[np.ndarray]] = {tap: [] for tap in self.taps}
        logits: list[np.ndarray] = []
        num_done = 0
        with tqdm(
            total=num_images,
            desc=description,
            unit="image",
            disable=None if description else True,
            leave=False,
        ) as progress:
            for block in _in_whole_batches(blocks, self.batch_size):
                features = self.features(block)
                for tap in self.taps:
                    update = GaussianStatistics.of(features[tap])
                    statistics[tap] = statistics[tap].merge(update) if num_done else update
                    kept[tap].append(features[tap][: max(0, NUM_KEPT - num_done)])
                if LOGITS in features:
                    logits.append(features[LOGITS])
                num_done += len(block)
                progress.update(len(block))
        return FeatureSet(
            statistics,
            {tap: np.concatenate(parts) for tap, parts in kept.items()},
            np.concatenate(logits) if logits else None,
        )
