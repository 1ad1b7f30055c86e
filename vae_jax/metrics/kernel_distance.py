"""Kernel distance of two sets of image features (KID), in float64 on the host."""

import numpy as np

from vae_jax.errors import InputError


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns (x . y / D + 1)^3 of each pair: [M, D], [N, D] -> [M, N]."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    """Returns the mean of [N, N] without the N pairs of an image with itself."""
    n = len(matrix)
    return (matrix.sum() - np.trace(matrix)) / (n * (n - 1))


def unbiased_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased estimate of the squared MMD (Gretton et al. 2012, equation 3).

    MMD is the maximum mean discrepancy. Because the estimate is unbiased, it is often below 0 if
    the distributions are equal.

    Args:
      x, y: features [M, D], [N, D]; memory is of order (M + N)^2.

    Raises:
      InputError: there are fewer than two images on either side.
    """
    if min(len(x), len(y)) < 2:
        raise InputError(
            f"The kernel distance compares pairs within each set or subset: {len(x)} and {len(y)} "
            "images are too few; take at least 2 of each."
        )
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    within = _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y))
    return float(within - 2.0 * _kernel(x, y).mean())


def kernel_distance(
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float | None]:
    """Returns the kernel Inception distance (Binkowski et al. 2018, arXiv:1801.01401).

    It is the mean of `unbiased_mmd2` over random subsets. Its standard error has two parts: one
    from having only these images, and one from drawing the subsets from them. Over subsets of b of
    n images, the variance is of order 1 / b - 1 / n. The factor b / (n - b) scales this to the
    1 / n of all images (subsampling: Politis & Romano 1994, with n of the smaller set), and the
    factor 1 / num_subsets scales it to the second part. The second part alone, which is often
    printed, goes to 0 with more subsets of the same images. If the distributions are equal, the
    true error falls faster than 1 / sqrt(n), and this one is too large.

    Args:
      x, y: features [M, D], [N, D].
      rng: source of the subsets, each drawn without replacement.
      num_subsets: number of subsets; only one is used if it is the whole of both sets.
      subset_size: images per subset, reduced to the size of the smaller set if necessary.

    Returns:
      (mean, standard error). The error is None if a subset is the whole of the smaller set or if
      there is only one subset.

    Raises:
      InputError: a set or subset has fewer than two images.
    """
    n = min(len(x), len(y))
    b = min(subset_size, n)
    if b == len(x) == len(y):
        num_subsets = 1
    estimates = [
        unbiased_mmd2(
            x[rng.choice(len(x), b, replace=False)], y[rng.choice(len(y), b, replace=False)]
        )
        for _ in range(num_subsets)
    ]
    if b == n or num_subsets == 1:
        return float(np.mean(estimates)), None
    scale = np.sqrt(b / (n - b) + 1.0 / num_subsets)
    return float(np.mean(estimates)), float(np.std(estimates, ddof=1) * scale)
