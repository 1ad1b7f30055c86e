"""A metric: a number with everything that is needed to identify it and to compare it."""

import dataclasses
from collections.abc import Iterable

import numpy as np

FID_TAP = 2048  # features of FID, and of every metric without a number in its label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A number with everything that is needed to identify it and to compare it.

    Attributes:
      name: what is measured: 'elbo', 'psnr', 'fid', 'inception_score', ...
      value: value of the metric.
      unit: 'nats', 'bits', 'dB', 'of 32' for a count, or '' for a plain number.
      image_set: the images that it describes: a split, or a set such as 'reconstruction_means'.
      reference_split: for a sample metric, the split whose images these are set against.
      preprocessing: for a sample metric, how images are resized for the Inception network, a key
        of `metrics.features.PREPROCESSING`.
      tap: number of Inception features, or None if it uses none.
      num_images: number of images that it was computed on.
      seed: random seed of the evaluation noise.
      checkpoint_step: step of the evaluated checkpoint.
      protocol: how it was computed, in words, without what the other fields say.
      is_biased: whether there are too few images for a covariance with an inverse.
      standard_error: standard error of the value, or None if it has none.
    """

    name: str
    value: float
    unit: str
    image_set: str
    reference_split: str | None = None
    preprocessing: str | None = None
    tap: int | None = None
    num_images: int
    seed: int
    checkpoint_step: int
    protocol: str
    is_biased: bool = False
    standard_error: float | None = None

    @property
    def label(self) -> str:
        """The name with its kind of features: 'elbo', 'fid', 'clean_fid_768'."""
        return label_of(self.name, self.preprocessing, self.tap)

    @property
    def pair(self) -> str | None:
        """The sets of images of a sample metric: 'samples_vs_test'."""
        return self.reference_split and f"{self.image_set}_vs_{self.reference_split}"

    @property
    def key(self) -> str:
        """The name that is unique in an evaluation: 'elbo', 'samples_vs_test/clean_fid_768'."""
        return f"{self.pair}/{self.label}" if self.pair else self.label

    @property
    def description(self) -> str:
        """The whole protocol: '10,000 images against 10,000, 768 features, clean preprocessing'."""
        if self.reference_split is None:
            return self.protocol
        parts = [f"{self.num_images:,} images {self.protocol}"]
        if self.tap is not None:
            parts.append(f"{self.tap} features")
        if self.is_biased:
            parts.append("biased: singular covariance")
        return ", ".join([*parts, f"{self.preprocessing} preprocessing"])


def label_of(name: str, preprocessing: str | None, tap: int | None) -> str:
    """Returns the label of a metric with this name, preprocessing and number of features."""
    prefix = "clean_" if preprocessing == "clean" else ""
    return f"{prefix}{name}" if tap in (None, FID_TAP) else f"{prefix}{name}_{tap}"


def by_key(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Returns the metrics by their keys, in the same order."""
    return {metric.key: metric for metric in metrics}


def too_few_images(result: str, minimum: int, split: str, num_images: int) -> str:
    """Returns the sentence about a result that is missing because a split has too few images.

    Args:
      result: the metric or picture, in words with `backticks`.
      minimum: number of images that it needs.
      split: name of the split.
      num_images: number of its images.
    """
    return (
        f"Missing: {result}: needs at least {minimum} images, the {split} split has {num_images}."
    )


def mean(values: np.ndarray) -> float:
    """Returns the mean over images in float64: float32 sums of 10,000 values lose digits."""
    return float(np.mean(values, dtype=np.float64))


def standard_error(values: np.ndarray) -> float | None:
    """Returns the standard error of the mean over images.

    The result is None for a single image, or if a value is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(len(values)))
