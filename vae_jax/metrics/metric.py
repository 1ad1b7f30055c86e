"""A metric: a number with everything that is needed to compare it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number with everything that is needed to compare it.

    Attributes:
      value: value of the metric.
      unit: 'nats', 'bits', 'dB', 'of 32' for a count, or '' for a plain number.
      split: name of the split that the images are from.
      num_images: number of images that it was computed on.
      seed: random seed of the evaluation noise.
      checkpoint_step: step of the evaluated checkpoint.
      protocol: how it was computed, in words.
      standard_error: standard error of the value, or None if it has none.
    """

    value: float
    unit: str
    split: str
    num_images: int
    seed: int
    checkpoint_step: int
    protocol: str
    standard_error: float | None = None


def mean(values: np.ndarray) -> float:
    """Returns the mean over images in float64: float32 sums of 10,000 values lose digits."""
    return float(np.mean(values, dtype=np.float64))


def standard_error(values: np.ndarray) -> float | None:
    """Returns the standard error of the mean over images, or None for a single image."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(len(values)))
