"""Tests of vae_jax/metrics/kernel_distance.py."""

import numpy as np
import pytest

from tests.metrics.torch_reference import import_torchvision
from vae_jax.metrics.kernel_distance import kernel_distance, unbiased_mmd2


def features(seed: int, num_images: int, num_features: int = 8, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 1.0, size=(num_images, num_features)).astype(np.float32)


# One estimate


@pytest.mark.parametrize("num_y", [2, 7])
def test_mmd2_by_loops_over_pairs(num_y):
    x, y = features(0, 5, mean=1.0).astype(np.float64), features(1, num_y).astype(np.float64)

    def kernel(a, b):
        return (sum(a * b) / 8 + 1) ** 3

    def within(z):
        return np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    expected = within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(unbiased_mmd2(x, y), expected, rtol=1e-10)


def test_mmd2_of_points_in_closed_form():
    # All of x is at 1 and all of y at -1 in one dimension: k = 2^3 within, (1 - 1)^3 across.
    assert unbiased_mmd2(np.ones((3, 1)), -np.ones((4, 1))) == 16.0


def test_mmd2_is_unbiased():
    # With x ~ N(m, 1), y ~ N(0, 1): E (x x' + 1)^3 over independent pairs has the raw moments of x
    # squared, so MMD^2 = 3 (m1 - n1)^2 + 3 (m2 - n2)^2 + (m3 - n3)^2.
    mean, num_draws = 0.5, 4000
    moments = np.array([mean, mean**2 + 1, mean**3 + 3 * mean])
    expected = (np.array([3, 3, 1]) * (moments - [0, 1, 0]) ** 2).sum()
    rng = np.random.default_rng(0)
    for shift, truth in [(0.0, 0.0), (mean, expected)]:
        draws = [
            unbiased_mmd2(rng.normal(shift, 1, size=(20, 1)), rng.normal(size=(20, 1)))
            for _ in range(num_draws)
        ]
        assert min(draws) < 0
        assert abs(np.mean(draws) - truth) < 4 * np.std(draws) / np.sqrt(num_draws)


def test_mmd2_of_float32_features_is_taken_in_float64():
    x, y = features(0, 30, mean=100.0), features(1, 30, mean=100.0)
    exact = unbiased_mmd2(x.astype(np.float64), y.astype(np.float64))
    assert unbiased_mmd2(x, y) == exact


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1)])
def test_mmd2_needs_two_images(sizes):
    message = f"{sizes[0]} and {sizes[1]} images are too few; take at least 2"
    x, y = (features(0, size) for size in sizes)
    with pytest.raises(ValueError, match=message):
        unbiased_mmd2(x, y)
    with pytest.raises(ValueError, match="take at least 2"):
        kernel_distance(x, y, np.random.default_rng(0))


# Mean over subsets


def test_a_subset_as_large_as_both_sets_is_one_estimate_without_error():
    x, y = features(0, 30, mean=0.5), features(1, 30)
    for subset_size in (30, 31):
        distance, standard_error = kernel_distance(
            x, y, np.random.default_rng(0), subset_size=subset_size
        )
        np.testing.assert_allclose(distance, unbiased_mmd2(x, y), rtol=1e-10)
        assert standard_error is None


def test_whole_larger_set_is_used_if_subsets_contain_the_whole_smaller_one():
    x, y = features(0, 10), features(1, 1000, mean=0.5)
    distance, standard_error = kernel_distance(x, y, np.random.default_rng(0), num_subsets=2000)
    # The expectation over the subsets of y is the estimate from all of y.
    np.testing.assert_allclose(distance, unbiased_mmd2(x, y), rtol=0.05)
    assert standard_error is None


def test_subsets_average_to_the_whole_and_their_number_does_not_set_the_error():
    x, y = features(0, 300, mean=0.5), features(1, 200)
    errors = {}
    for num_subsets in (100, 4000):
        distance, errors[num_subsets] = kernel_distance(
            x, y, np.random.default_rng(0), num_subsets, subset_size=50
        )
    # With b = 50 of n = 200 the error is sqrt(1 / 3 + 1 / 4000) of the spread over the subsets.
    spread = errors[4000] / np.sqrt(1 / 3 + 1 / 4000)
    assert abs(distance - unbiased_mmd2(x, y)) < 4 * spread / np.sqrt(4000)
    np.testing.assert_allclose(errors[100], errors[4000], rtol=0.25)


def test_standard_error_includes_that_of_drawing_the_subsets():
    """With few small subsets of many images, their choice causes almost all of the error."""
    x, y = features(0, 2000, mean=0.5), features(1, 2000)
    distances, standard_errors = np.transpose(
        [
            kernel_distance(x, y, np.random.default_rng(seed), num_subsets=4, subset_size=20)
            for seed in range(400)
        ]
    )
    # The spread of 400 means is known to about 4%, the mean variance of four subsets to about 5%.
    error = np.sqrt(np.mean(standard_errors**2))
    assert 0.85 < error / distances.std(ddof=1) < 1.2


def test_one_subset_has_no_error():
    distance, standard_error = kernel_distance(
        features(0, 20), features(1, 20), np.random.default_rng(0), num_subsets=1, subset_size=10
    )
    assert np.isfinite(distance) and standard_error is None


@pytest.mark.parametrize("num_images, subset_size", [(200, 100), (400, 40)])
def test_standard_error_is_the_spread_over_new_images(num_images, subset_size):
    estimates, standard_errors = np.transpose(
        [
            kernel_distance(
                features(2 * seed, num_images, mean=0.5),
                features(2 * seed + 1, num_images),
                np.random.default_rng(seed),
                num_subsets=100,
                subset_size=subset_size,
            )
            for seed in range(100)
        ]
    )
    # The spread of 100 estimates is itself known to about 7%.
    assert 0.75 < standard_errors.mean() / estimates.std(ddof=1) < 1.3


def test_standard_error_does_not_fall_short_where_the_distributions_are_equal():
    estimates, standard_errors = np.transpose(
        [
            kernel_distance(
                features(2 * seed, 200),
                features(2 * seed + 1, 200),
                np.random.default_rng(seed),
                subset_size=50,
            )
            for seed in range(50)
        ]
    )
    assert standard_errors.mean() > estimates.std(ddof=1)


@pytest.mark.parametrize("subset_size", [100, 30])
def test_kernel_distance_is_that_of_torch_fidelity(subset_size):
    import_torchvision()
    metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
    torch = pytest.importorskip("torch")
    x, y = features(0, 100, 64, mean=0.5), features(1, 100, 64)
    # The package computes in the dtype it is given.
    expected = metric_kid.kid_features_to_metric(
        torch.tensor(np.float64(x)),
        torch.tensor(np.float64(y)),
        kid_subsets=20,
        kid_subset_size=subset_size,
        rng_seed=7,
        verbose=False,
    )
    # The package's older generator has the same `choice`, so it draws the same subsets.
    rng = np.random.RandomState(7)
    distance, _ = kernel_distance(x, y, rng, num_subsets=20, subset_size=subset_size)
    np.testing.assert_allclose(distance, expected[metric_kid.KEY_METRIC_KID_MEAN], rtol=1e-10)
