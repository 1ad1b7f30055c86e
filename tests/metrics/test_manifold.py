"""Tests of vae_jax/metrics/manifold.py."""

import numpy as np
import pytest

from vae_jax.metrics.manifold import manifold_metrics, nearest_neighbours, realism

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


# Single images


def neighbours_by_loops(points, references, k, exclude_self=False):
    """(indices, distances) of the k nearest, by sorting all."""
    found = []
    for i, p in enumerate(np.float64(points)):
        pairs = [
            (float(np.linalg.norm(p - r)), j)
            for j, r in enumerate(np.float64(references))
            if not (exclude_self and i == j)
        ]
        found.append(sorted(pairs)[:k])
    distances, indices = np.moveaxis(np.array(found), -1, 0)
    return indices.astype(int), distances


@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_nearest_neighbours_by_loops(k, block_size):
    points, references = features(0, 20), features(1, 12) + 0.5
    indices, distances = nearest_neighbours(points, references, k, block_size=block_size)
    expected_indices, expected_distances = neighbours_by_loops(points, references, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-9)


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_no_point_is_its_own_neighbour(block_size):
    points = features(0, 20)
    points[5] = points[6] + 1e-3  # a twin is a neighbour
    indices, distances = nearest_neighbours(points, points, 4, True, block_size)
    expected_indices, expected_distances = neighbours_by_loops(points, points, 4, True)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-6)
    assert indices[5, 0] == 6 and indices[6, 0] == 5


def test_near_neighbours_are_told_apart_far_from_the_origin():
    references = 1e6 + np.arange(10.0)[:, None] * np.ones((1, 8))
    indices, distances = nearest_neighbours(references + 0.2, references, 2)
    np.testing.assert_array_equal(indices[:9], np.stack([np.arange(9), np.arange(1, 10)], axis=1))
    expected = np.broadcast_to(np.sqrt(8) * np.array([0.2, 0.8]), (9, 2))
    np.testing.assert_allclose(distances[:9], expected, rtol=1e-6)


def realism_by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
    """Kynkaanniemi et al. 2019, equation 3, over the half of the real images with small radii."""
    _, distances = neighbours_by_loops(real, real, k, exclude_self=True)
    radii = distances[:, -1]
    kept = [i for i, radius in enumerate(radii) if radius <= np.median(radii)]
    return np.array(
        [
            max(radii[i] / np.linalg.norm(np.float64(f) - np.float64(real[i])) for i in kept)
            for f in fake
        ]
    )


@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_realism_by_loops(k, block_size):
    real, fake = features(0, 25), features(1, 18, scale=1.5) + 0.3
    actual = realism(real, fake, k, block_size)
    np.testing.assert_allclose(actual, realism_by_loops(real, fake, k), rtol=1e-9)
    assert actual.min() < 1 < actual.max()  # points inside and outside of the balls


def test_realism_by_hand():
    # At k = 1 the radii are 1, 1, 1, 1 and 5, 5: the outliers at 20 and 25 do not count.
    real = np.array([[0.0], [1.0], [10.0], [11.0], [20.0], [25.0]])
    fake = np.array([[3.0], [10.5], [22.0]])
    np.testing.assert_allclose(realism(real, fake, 1), [1 / 2, 2.0, 1 / 11], rtol=1e-12)


def test_realism_of_a_real_image_is_huge():
    real = features(0, 25)
    _, distances = neighbours_by_loops(real, real, 3, exclude_self=True)
    inside = np.argmin(distances[:, -1])  # its ball is among the small half
    real[inside] = np.round(real[inside])
    with np.errstate(all="raise"):
        assert realism(real, real[inside : inside + 1])[0] > 1e6


def test_repeated_images_give_no_nan():
    """Their balls have no size, and 0 / 0 no value."""
    real = np.concatenate([np.zeros((10, 2)), np.ones((10, 2))])
    found = realism(real, np.array([[0.0, 0.0], [0.0, 3.0]]))
    assert not np.isnan(found).any() and found[1] < 1e-6


def test_a_large_mean_does_not_change_realism():
    real, fake = (np.round(features(s, 30, scale=0.1) * 1024) / 1024 for s in (0, 1))
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    shifted = realism(real + 2.0**30, fake + 2.0**30)
    np.testing.assert_allclose(shifted, realism(real, fake), rtol=1e-6)


def test_realism_needs_more_real_images_than_neighbours():
    with pytest.raises(ValueError, match="3 real images are too few for neighbour number 3"):
        realism(features(0, 3), features(1, 9))
    assert realism(features(0, 4), features(1, 1)).shape == (1,)
