"""Frechet distance of Gaussians fitted to image features (FID), in float64 on the host."""

import dataclasses

import numpy as np

from vae_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of features, accumulated over batches in any split and order.

    Attributes:
      count: number of images.
      mean: mean of the features, [D].
      scatter: sum of outer products of the centred features, [D, D].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "GaussianStatistics":
        """Returns the statistics of features [B, D], B >= 1.

        Raises:
          InputError: a feature is not finite.
        """
        features = np.asarray(features, np.float64)
        broken = len(features) - np.isfinite(features).all(axis=1).sum()
        if broken:
            raise InputError(
                f"{broken} of {len(features)} images have features that are not finite, and one is "
                "enough to make every statistic NaN: look for NaN or infinity in images and "
                "weights."
            )
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Returns the statistics of both sets together (Chan, Golub & LeVeque 1983).

        Unlike E[x x^T] - E[x] E[x]^T, this loses no digits if the mean is large compared with the
        spread.
        """
        count = self.count + other.count
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return GaussianStatistics(
            count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + between,
        )

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance (divided by count - 1), [D, D]."""
        return self.scatter / (self.count - 1)


def frechet_distance(
    a: GaussianStatistics, b: GaussianStatistics, allow_biased: bool = False
) -> float:
    """Returns the squared 2-Wasserstein distance of two Gaussians.

    |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2, the Frechet distance of Heusel
    et al. 2017 (arXiv:1706.08500). If a covariance is singular, rounding errors of either sign may
    reach about 1e-7 of the traces.

    Args:
      a, b: statistics of features from the same layer.
      allow_biased: accept fewer than D + 1 images, whose covariance is singular; the distance
        then depends strongly on the number of images.

    Raises:
      InputError: the features have different sizes, or there are too few images.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"Statistics of {len(a.mean)} and of {len(b.mean)} features have no distance: "
            "take both from the same layer of the same network."
        )
    num_features = len(a.mean)
    required = 2 if allow_biased else num_features + 1
    count = min(a.count, b.count)
    if count < required:
        raise InputError(
            f"{count} images are too few for the Frechet distance of {num_features} features, "
            f"which needs at least {required} of each set: take more images, a layer with fewer "
            "features, or allow_biased=True (only comparable with the same number of images)."
        )
    # Not scipy.linalg.sqrtm of S_a S_b: that product is not symmetric, and several SciPy releases
    # return complex or wrong roots if it is nearly singular. Here all eigenvalues are real, and
    # negative ones are rounding errors.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    product_values = np.linalg.eigvalsh(root @ b.covariance @ root)
    return float(
        np.sum((a.mean - b.mean) ** 2)
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2.0 * np.sqrt(product_values.clip(0.0)).sum()
    )
