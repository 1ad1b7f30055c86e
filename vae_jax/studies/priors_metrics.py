"""Distances of the samples of priors to test images and to decoded codes of test images."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from vae_jax.data import Split
from vae_jax.evaluation import sample_quality
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.inception_weights import InceptionWeights
from vae_jax.metrics.reference import reference_features
from vae_jax.runtime.settings import standard_settings
from vae_jax.streams import stream
from vae_jax.studies.priors_table import AGGREGATE


class Distances:
    """Measures images in Inception features, which it stores on disk.

    Args:
      load_vae: loads the VAE, when it is needed.
      num_samples: number of test images, and of decoded draws of the aggregate posterior.
      weights: weights of the Inception network.
      directory: directory of stored features.

    Attributes:
      tap: number of features.

    Raises:
      InputError: the weights end before the features that distances need.
    """

    def __init__(
        self,
        load_vae: Callable[[], TrainedVAE],
        num_samples: int,
        weights: InceptionWeights,
        directory: pathlib.Path,
    ) -> None:
        self._load_vae, self._num_samples, self._directory = load_vae, num_samples, directory
        self.tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self.tap])

    def __call__(self, images: np.ndarray, name: str) -> dict[str, list[float | None]]:
        """Measures the distances of images to test images and to the aggregate posterior.

        Args:
          images: uint8 [N, H, W, C].
          name: name of the images, for the file of their features.

        Returns:
          {metric: [value, standard error]}: all metrics against the test images, and FID and KID
          against the decoded aggregate posterior.
        """
        fake = self._features(images, name)

        def measure(other: FeatureSet) -> dict[str, list[float | None]]:
            measures = sample_quality.measure_tap(other, fake, self.tap, False, seed=0)
            return {name: [value, error] for name, (value, error, *_) in measures.items()}

        aggregate = measure(self._aggregate)
        names = [name for name in ("fid", "kid") if name in aggregate]
        return measure(self._real) | {f"{name}_to_aggregate": aggregate[name] for name in names}

    @functools.cached_property
    @standard_settings()
    def decoded(self) -> list[np.ndarray]:
        """Two sets of decoded draws of the aggregate posterior, uint8 [N, H, W, C] each."""
        vae = self._load_vae()
        seed = vae.experiment.evaluation.seed
        keys = [jax.random.split(stream(f"priors/posterior_{i}", seed)) for i in range(2)]
        codes = (image_sets.aggregate_posterior_codes(vae, self._num_samples, k) for k in keys)
        return [image_sets.decode_means(vae, z) for z in codes]

    @functools.cached_property
    def _real(self) -> FeatureSet:
        test = image_sets.real_split(self._load_vae(), "test", self._num_samples)
        return self._features(test, "test")

    @functools.cached_property
    def _aggregate(self) -> FeatureSet:
        return self._features(self.decoded[0], AGGREGATE)

    def _features(self, images: np.ndarray | Split, name: str) -> FeatureSet:
        """Extracts features, or reads them from disk if the command was run before."""
        name = name.replace(" ", "_")
        return reference_features(self._extractor, images, name, self._directory)
