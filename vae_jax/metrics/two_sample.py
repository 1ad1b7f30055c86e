"""Whether two sets of vectors are of one distribution, in float64 on the host."""

import numpy as np

from vae_jax.errors import InputError
from vae_jax.metrics.manifold import nearest_neighbours, squared_distances


def mmd_test(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, num_permutations: int = 500
) -> tuple[float, np.ndarray]:
    """Squared maximum mean discrepancy and its null distribution (Gretton et al. 2012).

    Gaussian kernel whose squared bandwidth is the median squared distance; the biased estimate,
    which is as good for a test. The null distribution is that of random relabellings of the rows.

    Args:
      x, y: [M, D], [N, D]; memory is of order (M + N)^2.
      rng: source of the relabellings.

    Returns:
      (estimate, the estimates of `num_permutations` relabellings).
    """
    z = np.concatenate([x, y]).astype(np.float64)
    distances = np.concatenate([d for _, d in squared_distances(z, z)])
    kernel = np.exp(-distances / np.median(distances[np.triu_indices(len(z), 1)]))
    weights = np.concatenate([np.full(len(x), 1.0 / len(x)), np.full(len(y), -1.0 / len(y))])
    relabelled = np.stack([rng.permutation(weights) for _ in range(num_permutations)])
    null = np.einsum("pi,pi->p", relabelled @ kernel, relabelled)
    return float(weights @ kernel @ weights), null


def nearest_neighbour_accuracy(x: np.ndarray, y: np.ndarray) -> float:
    """How often a row's nearest other row is of its own set: about 0.5 where both are alike.

    The classifier two-sample test of Lopez-Paz & Oquab 2017 (arXiv:1610.06545) with one neighbour,
    left out one at a time.

    Args:
      x, y: [N, D] each.

    Raises:
      ValueError: sets of unequal size, for which 0.5 would not be the value of chance.
    """
    if len(x) != len(y):
        raise InputError(f"{len(x)} and {len(y)} rows: both sets must have the same number.")
    z, is_first = np.concatenate([x, y]), np.arange(2 * len(x)) < len(x)
    indices, _ = nearest_neighbours(z, z, k=1, exclude_self=True)
    return float((is_first[indices[:, 0]] == is_first).mean())
