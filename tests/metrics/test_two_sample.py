"""Tests of vae_jax/metrics/two_sample.py."""

import itertools
import math

import numpy as np
import pytest
from scipy.spatial import distance

from vae_jax.metrics import two_sample


def normal(num_rows: int, seed: int, shift: float = 0.0, dims: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (num_rows, dims))


def kernel_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes the kernel of all rows of both sets, entry by entry."""
    z = [*x, *y]
    squared = [[float(((a - b) ** 2).sum()) for b in z] for a in z]
    bandwidth = np.median([squared[i][j] for i, j in itertools.combinations(range(len(z)), 2)])
    return np.array([[math.exp(-s / bandwidth) for s in row] for row in squared])


# Maximum mean discrepancy


@pytest.mark.parametrize(("num_x", "num_y"), [(7, 7), (4, 9), (1, 5)])
def test_mmd_is_that_of_a_double_loop(num_x, num_y):
    x, y = normal(num_x, 0), normal(num_y, 1, shift=0.5)
    kernel = kernel_of(x, y)
    first, second = range(num_x), range(num_x, num_x + num_y)

    def mean(rows, columns) -> float:
        return sum(kernel[i, j] for i in rows for j in columns) / (len(rows) * len(columns))

    expected = mean(first, first) + mean(second, second) - 2.0 * mean(first, second)
    actual, _ = two_sample.mmd_test(x, y, np.random.default_rng(0), num_permutations=2)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize(("num_x", "num_y"), [(30, 30), (12, 40)])
def test_mmd_null_has_the_mean_of_all_relabellings(num_x, num_y):
    """With S = 1/m + 1/n, a random relabelling has E[w_i^2] = S / N, E[w_i w_j] = -S / N / (N - 1).

    So E[w K w] = S (1 - mean of K off its diagonal of ones).
    """
    x, y = normal(num_x, 0), normal(num_y, 1, shift=1.0)
    kernel, num_rows = kernel_of(x, y), num_x + num_y
    off_diagonal = (kernel.sum() - num_rows) / (num_rows * (num_rows - 1))
    expected = (1 / num_x + 1 / num_y) * (1.0 - off_diagonal)
    _, null = two_sample.mmd_test(x, y, np.random.default_rng(0), num_permutations=4000)
    assert null.shape == (4000,)
    assert abs(null.mean() - expected) < 4 * null.std(ddof=1) / math.sqrt(4000)
    assert null.std() > 0.01 * expected


def p_value(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    mmd, null = two_sample.mmd_test(x, y, np.random.default_rng(seed), num_permutations=199)
    return (1 + (null >= mmd).sum()) / 200


def test_p_values_of_one_distribution_are_uniform():
    values = [p_value(normal(15, 2 * s), normal(20, 2 * s + 1), seed=s) for s in range(60)]
    # P(p <= 0.1) is 0.1: of 60, 6 +- 2.3; 4 standard deviations.
    assert sum(p <= 0.1 for p in values) <= 15
    assert abs(np.mean(values) - 0.5) < 4 * math.sqrt(1 / 12 / 60)


def test_shifted_distribution_is_above_all_relabellings():
    assert p_value(normal(40, 0), normal(40, 1, shift=1.5)) == 1 / 200


def test_mmd_of_a_set_and_itself_is_zero():
    x = normal(20, 0)
    mmd, null = two_sample.mmd_test(x, x, np.random.default_rng(0), num_permutations=50)
    assert abs(mmd) < 1e-14
    assert null.min() > 0


def test_mmd_does_not_depend_on_the_order_of_rows_or_the_scale():
    x, y = normal(12, 0), normal(15, 1, shift=0.7)
    rng = np.random.default_rng(3)
    expected, _ = two_sample.mmd_test(x, y, rng, 2)
    for other_x, other_y in (
        (rng.permutation(x), rng.permutation(y)),
        (y, x),
        (10.0 * x, 10.0 * y),  # the bandwidth follows
        (x + 5.0, y + 5.0),
    ):
        actual, _ = two_sample.mmd_test(other_x, other_y, rng, 2)
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


# One nearest neighbour


def test_accuracy_on_one_distribution_is_that_of_exchangeable_rows():
    """The nearest other row is any of 2n - 1, of which n - 1 are in the same set."""
    n, num_sets = 5, 600
    accuracies = [
        two_sample.nearest_neighbour_accuracy(normal(n, 2 * s), normal(n, 2 * s + 1))
        for s in range(num_sets)
    ]
    error = np.std(accuracies, ddof=1) / math.sqrt(num_sets)
    expected = (n - 1) / (2 * n - 1)
    assert 0.5 - expected > 4 * error  # the difference from 0.5 would be seen
    assert abs(np.mean(accuracies) - expected) < 4 * error


def test_accuracy_on_sets_far_apart_is_1():
    assert two_sample.nearest_neighbour_accuracy(normal(20, 0), normal(20, 1, shift=50.0)) == 1.0


def test_accuracy_on_a_set_and_its_copy_is_0():
    """The nearest neighbour of each row is its duplicate in the other set."""
    x = normal(20, 0)
    assert two_sample.nearest_neighbour_accuracy(x, x) == 0.0
    assert two_sample.nearest_neighbour_accuracy(x, np.random.default_rng(1).permutation(x)) == 0.0
    # With half of the rows far away: those agree, the paired ones do not.
    y = np.where(np.arange(20)[:, None] < 10, x, normal(20, 2, shift=50.0))
    x = np.where(np.arange(20)[:, None] < 10, x, normal(20, 3, shift=-50.0))
    assert two_sample.nearest_neighbour_accuracy(x, y) == 0.5


@pytest.mark.parametrize("num_rows", [3, 1100])  # within a block of rows, and over several
def test_accuracy_is_that_of_plain_distances(num_rows):
    x, y = normal(num_rows, 0, dims=2), normal(num_rows, 1, shift=0.5, dims=2)
    distances = distance.squareform(distance.pdist(np.concatenate([x, y])))
    np.fill_diagonal(distances, np.inf)
    is_first = np.arange(2 * num_rows) < num_rows
    expected = np.mean(is_first[distances.argmin(axis=1)] == is_first)
    assert two_sample.nearest_neighbour_accuracy(x, y) == expected


def test_sets_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="4 and 5 rows: both sets must have the same number"):
        two_sample.nearest_neighbour_accuracy(normal(4, 0), normal(5, 1))
