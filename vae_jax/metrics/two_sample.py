"""Tests whether two sets of vectors have the same distribution, in float64 on the host."""

import numpy as np

from vae_jax.errors import InputError
from vae_jax.metrics.manifold import nearest_neighbours, squared_distances


def mmd_test(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, num_permutations: int = 500
) -> tuple[float, np.ndarray]:
    """Returns the squared MMD of two sets and its null distribution (Gretton et al. 2012).

    MMD is the maximum mean discrepancy. The kernel is Gaussian, with the median squared distance as
    its squared bandwidth. The estimate is the biased one, which serves a test just as well. The
    null distribution comes from random relabellings of the rows.

    Args:
      x, y: vectors [M, D], [N, D]; memory is of order (M + N)^2.
      rng: source of the relabellings.
      num_permutations: number of relabellings.

    Returns:
      (estimate, estimates of the relabellings [num_permutations]).
    """
    z = np.concatenate([x, y]).astype(np.float64)
    distances = np.concatenate([d for _, d in squared_distances(z, z)])
    kernel = np.exp(-distances / np.median(distances[np.triu_indices(len(z), 1)]))
    weights = np.concatenate([np.full(len(x), 1.0 / len(x)), np.full(len(y), -1.0 / len(y))])
    relabelled = np.stack([rng.permutation(weights) for _ in range(num_permutations)])
    null = np.einsum("pi,pi->p", relabelled @ kernel, relabelled)
    return float(weights @ kernel @ weights), null


def nearest_neighbour_accuracy(x: np.ndarray, y: np.ndarray) -> float:
    """Returns how often a row's nearest other row is from the same set: about 0.5 for equal sets.

    This is the classifier two-sample test of Lopez-Paz & Oquab 2017 (arXiv:1610.06545) with one
    nearest neighbour and leave-one-out evaluation.

    Args:
      x, y: vectors, [N, D] each.

    Raises:
      InputError: the sets have different sizes, so chance would not give 0.5.
    """
    if len(x) != len(y):
        raise InputError(f"{len(x)} and {len(y)} rows: both sets must have the same number.")
    z, is_first = np.concatenate([x, y]), np.arange(2 * len(x)) < len(x)
    indices, _ = nearest_neighbours(z, z, k=1, exclude_self=True)
    return float((is_first[indices[:, 0]] == is_first).mean())
