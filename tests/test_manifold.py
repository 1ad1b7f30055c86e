"""Tests of vae_jax/metrics/manifold.py."""

import numpy as np
import pytest

from vae_jax.metrics.manifold import manifold_metrics

NAMES = ["precision", "recall", "density", "coverage"]


def features(seed: int, num_images: int, num_features: int = 4, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(num_images, num_features))).astype(np.float32)


def by_loops(real: np.ndarray, fake: np.ndarray, k_pr: int, k_dc: int) -> dict[str, float]:
    def distance(a, b):
        return np.linalg.norm(np.float64(a) - np.float64(b))

    def radius(points, i, k):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    def ball_contents(centres, points, k):
        """For each ball, whether it holds each point."""
        return np.array(
            [
                [distance(c, p) < radius(centres, i, k) for p in points]
                for i, c in enumerate(centres)
            ]
        )

    density_balls = ball_contents(real, fake, k_dc)
    return {
        "precision": ball_contents(real, fake, k_pr).any(axis=0).mean(),
        "recall": ball_contents(fake, real, k_pr).any(axis=0).mean(),
        "density": density_balls.sum() / (k_dc * len(fake)),
        "coverage": density_balls.any(axis=1).mean(),
    }


def test_metrics_by_hand():
    # At k = 1 every radius is 2, and what lies at 2 is outside: the fake 5 of the real ball around
    # 3, the real 1 of the fake ball around 3. So only the two images at 3 lie in a ball, one each.
    real, fake = np.array([[-3.0], [-1.0], [1.0], [3.0]]), np.array([[3.0], [5.0]])
    expected = {"precision": 1 / 2, "recall": 1 / 4, "density": 1 / 2, "coverage": 1 / 4}
    assert manifold_metrics(real, fake, 1, 1) == expected


@pytest.mark.parametrize("k_pr, k_dc", [(3, 5), (5, 3), (1, 1), (2, 9)])
def test_metrics_by_loops_over_pairs(k_pr, k_dc):
    real, fake = features(0, 25), features(1, 18, scale=0.7) + 0.8
    actual, expected = manifold_metrics(real, fake, k_pr, k_dc), by_loops(real, fake, k_pr, k_dc)
    assert list(actual) == NAMES
    for name in NAMES:
        assert actual[name] == pytest.approx(expected[name], rel=1e-12), name
    if (k_pr, k_dc) == (3, 5):  # the four differ, and none is at its limit
        assert len({0.0, 1.0, *actual.values()}) == 6


@pytest.mark.parametrize("block_size", [1, 7, 30, 1000])
def test_metrics_do_not_depend_on_the_block_size(block_size):
    real, fake = features(0, 30), features(1, 40, scale=0.7)
    expected = manifold_metrics(real, fake)
    assert manifold_metrics(real, fake, block_size=block_size) == expected


def test_a_large_mean_does_not_change_the_metrics():
    # Multiples of 2^-10, so that adding the mean is exact.
    real, fake = (np.round(features(s, 30, scale=0.1) * 1024) / 1024 for s in (0, 1))
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    assert manifold_metrics(real + 2.0**30, fake + 2.0**30) == manifold_metrics(real, fake)


def test_near_neighbours_far_from_the_mean():
    # At norms of 4000, float32 would lose squared distances of order 1.
    def clusters(seed):
        return np.concatenate([features(seed, 10) + 2000.0, features(seed + 1, 10) - 2000.0])

    real, fake = clusters(0), clusters(2)
    assert real.dtype == np.float32
    assert manifold_metrics(real, fake) == pytest.approx(by_loops(real, fake, 3, 5), rel=1e-12)


def test_identical_sets_overlap_fully():
    real = features(0, 50)
    metrics = manifold_metrics(real, real.copy())
    assert metrics["precision"] == metrics["recall"] == metrics["coverage"] == 1.0


def test_sets_far_apart_do_not_overlap():
    metrics = manifold_metrics(features(0, 50), features(1, 60) + 100.0)
    assert metrics == dict.fromkeys(NAMES, 0.0)


def test_equal_distributions_have_density_1():
    # Naeem et al. 2020: the expectation is 1; coverage is 1 - (1/2)^k for many images.
    metrics = [manifold_metrics(features(s, 400), features(s + 100, 400)) for s in range(20)]
    density = np.array([m["density"] for m in metrics])
    coverage = np.array([m["coverage"] for m in metrics])
    assert abs(density.mean() - 1.0) < 4 * density.std(ddof=1) / np.sqrt(20)
    assert abs(coverage.mean() - (1 - 0.5**5)) < 0.005


def test_dropping_a_mode_lowers_recall_and_coverage_but_not_precision():
    offset = np.float32([20.0, 0.0, 0.0, 0.0])
    real = np.concatenate([features(0, 200), features(1, 200) + offset])
    both = np.concatenate([features(2, 200), features(3, 200) + offset])
    one = features(4, 400)
    full, dropped = manifold_metrics(real, both), manifold_metrics(real, one)
    assert dropped["precision"] > full["precision"] - 0.05 > 0.8
    assert dropped["recall"] < 0.5 < 0.8 < full["recall"]
    assert dropped["coverage"] <= 0.5 < 0.8 < full["coverage"]


def test_an_image_far_from_all_others_raises_precision_but_not_density():
    # Naeem et al. 2020: one ball of an outlier makes any fake image precise.
    real = features(0, 100)
    real[0] += 50.0
    metrics = manifold_metrics(real, features(1, 100) + 25.0)
    assert metrics["precision"] == 1.0 and metrics["density"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("num_real, num_fake", [(5, 6), (6, 5)])
def test_more_images_than_neighbours_are_needed(num_real, num_fake):
    message = f"{num_real} real and {num_fake} fake images are too few for neighbour number 5"
    for ks in [(3, 5), (5, 3)]:
        with pytest.raises(ValueError, match=message):
            manifold_metrics(features(0, num_real), features(1, num_fake), *ks)
        assert list(manifold_metrics(features(0, 6), features(1, 6), *ks)) == NAMES


def test_metrics_are_those_of_prdc():
    prdc = pytest.importorskip("prdc")
    real, fake = features(0, 300, 64), features(1, 250, 64, scale=0.9) + 0.1
    for k in (3, 5):
        # The package computes in the dtype it is given.
        expected = prdc.compute_prdc(np.float64(real), np.float64(fake), nearest_k=k)
        actual = manifold_metrics(real, fake, k, k)
        for name in NAMES:
            assert actual[name] == pytest.approx(expected[name], rel=1e-12), (k, name)
