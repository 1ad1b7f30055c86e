"""A number with all that is needed to compare it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number with all that is needed to compare it.

    Attributes:
      value: of the metric.
      unit: 'nats', 'bits', 'dB', or '' for a plain number.
      split: of the images.
      num_images: it was computed on.
      seed: of the evaluation's noise.
      checkpoint_step: of the evaluated parameters.
      protocol: in words, what a reader must know.
      standard_error: over the images, where it is a mean.
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
    """Mean over images in float64: float32 sums of 10,000 values lose digits."""
    return float(np.mean(values, dtype=np.float64))


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean over images; None for a single one."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(len(values)))
