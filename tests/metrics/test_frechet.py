"""Tests of vae_jax/metrics/frechet.py."""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from tests.metrics.torch_reference import import_torchvision
from vae_jax.metrics.frechet import GaussianStatistics, frechet_distance


def gaussian(mean, covariance, count: int = 10_000) -> GaussianStatistics:
    return GaussianStatistics(count, np.asarray(mean), np.asarray(covariance) * (count - 1))


def random_gaussian(rng: np.random.Generator, num_features: int) -> GaussianStatistics:
    """Returns a Gaussian with a well-conditioned covariance."""
    factor = rng.normal(size=(num_features, 3 * num_features))
    return gaussian(rng.normal(size=num_features), factor @ factor.T / num_features)


def random_features(seed: int, num_images: int, num_features: int) -> np.ndarray:
    """Correlated features of unequal scales and a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(num_features, num_features)) / np.arange(1, num_features + 1)
    return rng.normal(size=(num_images, num_features)) @ mixing + rng.normal(size=num_features)


def rotation(num_features: int) -> np.ndarray:
    return scipy.stats.special_ortho_group.rvs(num_features, random_state=0)


# Statistics


def test_statistics_are_those_of_numpy():
    features = random_features(0, 50, 4).astype(np.float32)
    statistics = GaussianStatistics.of(features)
    assert statistics.count == 50
    assert statistics.mean.dtype == statistics.scatter.dtype == np.float64
    exact = features.astype(np.float64)
    np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(exact, rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("splits", [[], [1], [99], [13, 14, 50], list(range(1, 100))])
def test_statistics_do_not_depend_on_batches_or_order(splits):
    features = random_features(0, 100, 5)
    shuffled = np.random.default_rng(1).permutation(features)
    batches = map(GaussianStatistics.of, np.split(shuffled, splits))
    streamed = functools.reduce(GaussianStatistics.merge, batches)
    assert streamed.count == 100
    np.testing.assert_allclose(streamed.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(features, rowvar=False), rtol=1e-12)


def test_statistics_of_a_small_spread_around_a_large_mean_keep_their_digits():
    offsets = 1e-2 * random_features(0, 1000, 3)
    features = 1e4 + offsets
    expected = np.cov(features - 1e4, rowvar=False)
    batches = np.split(features, 10)
    streamed = functools.reduce(GaussianStatistics.merge, map(GaussianStatistics.of, batches))
    np.testing.assert_allclose(streamed.covariance, expected, rtol=1e-8)
    # The textbook formula loses them: E[x^2] is 1e8 here, and its last digit 1e-8.
    textbook = features.T @ features / 1000 - np.outer(features.mean(axis=0), features.mean(axis=0))
    assert np.abs(textbook / expected - 1).max() > 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_statistics_refuse_features_that_are_not_finite(value):
    features = random_features(0, 10, 3)
    features[2] = value
    features[7, 1] = value
    with pytest.raises(ValueError, match="2 of 10 images have features that are not finite"):
        GaussianStatistics.of(features)


# Distance


def test_distance_of_equal_covariances_is_that_of_the_means():
    rng = np.random.default_rng(0)
    a = random_gaussian(rng, 4)
    b = gaussian(a.mean + np.array([1.0, -2.0, 0.0, 3.0]), a.covariance)
    np.testing.assert_allclose(frechet_distance(a, b), 1 + 4 + 9, rtol=1e-12)


def test_distance_in_one_dimension():
    a, b = gaussian([1.0], [[4.0]]), gaussian([3.5], [[0.25]])
    np.testing.assert_allclose(frechet_distance(a, b), 2.5**2 + (2.0 - 0.5) ** 2, rtol=1e-12)


@pytest.mark.parametrize("axes", [np.eye(4), rotation(4)])
def test_distance_of_covariances_with_the_same_axes(axes):
    stds_a, stds_b = np.array([1.0, 2.0, 0.1, 5.0]), np.array([3.0, 2.0, 0.2, 0.0])
    a = gaussian(np.zeros(4), axes * stds_a**2 @ axes.T)
    b = gaussian(np.ones(4), axes * stds_b**2 @ axes.T)
    expected = 4 + ((stds_a - stds_b) ** 2).sum()
    # A variance of 0 comes out as 1e-16, and its root as 1e-8.
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-7)


def test_distance_of_any_covariances_by_the_matrix_square_root():
    rng = np.random.default_rng(1)
    a, b = random_gaussian(rng, 6), random_gaussian(rng, 6)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_distance_is_symmetric_and_0_to_itself():
    a, b = (GaussianStatistics.of(random_features(seed, 100, 10)) for seed in (0, 1))
    assert frechet_distance(a, b) > 1.0
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(a, a), 0.0, atol=1e-10)


def test_distance_does_not_change_with_the_axes():
    x, y = random_features(0, 100, 10), random_features(1, 80, 10)
    of = GaussianStatistics.of
    turned = frechet_distance(of(x @ rotation(10)), of(y @ rotation(10)))
    np.testing.assert_allclose(turned, frechet_distance(of(x), of(y)), rtol=1e-10)


@pytest.mark.parametrize("num_images", [2, 8, 30, 200])
def test_distance_of_fewer_images_than_features(num_images):
    # With centred features X, Y: tr (S_a^1/2 S_b S_a^1/2)^1/2 is the sum of the singular values of
    # S_a^1/2 S_b^1/2, which are those of X Y^T / sqrt((n - 1)(m - 1)).
    x, y = random_features(0, num_images, 40), random_features(1, num_images + 3, 40)
    a, b = GaussianStatistics.of(x), GaussianStatistics.of(y)
    products = (x - x.mean(axis=0)) @ (y - y.mean(axis=0)).T
    overlap = np.linalg.norm(products, "nuc") / np.sqrt((len(x) - 1) * (len(y) - 1))
    expected = (
        ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
        + x.var(axis=0, ddof=1).sum()
        + y.var(axis=0, ddof=1).sum()
        - 2 * overlap
    )
    np.testing.assert_allclose(frechet_distance(a, b, allow_biased=True), expected, rtol=1e-6)


def test_distance_ignores_dimensions_that_no_image_uses():
    x, y = random_features(0, 20, 5), random_features(1, 20, 5)
    embed = rotation(30)[:5]
    inside = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y))
    embedded = frechet_distance(
        GaussianStatistics.of(x @ embed), GaussianStatistics.of(y @ embed), allow_biased=True
    )
    np.testing.assert_allclose(embedded, inside, rtol=1e-6)


def test_distance_needs_more_images_than_features():
    enough = GaussianStatistics.of(random_features(0, 11, 10))
    few = GaussianStatistics.of(random_features(1, 10, 10))
    assert np.isfinite(frechet_distance(enough, enough))
    for pair in [(enough, few), (few, enough)]:
        message = "10 images are too few .* of 10 features, which needs at least 11 .*allow_biased"
        with pytest.raises(ValueError, match=message):
            frechet_distance(*pair)
        assert np.isfinite(frechet_distance(*pair, allow_biased=True))


def test_distance_needs_two_images_in_any_case():
    one = GaussianStatistics.of(random_features(0, 1, 3))
    with pytest.raises(ValueError, match="1 images are too few .* needs at least 2"):
        frechet_distance(one, one, allow_biased=True)


def test_distance_refuses_different_features():
    a, b = (GaussianStatistics.of(random_features(0, 20, size)) for size in (3, 4))
    with pytest.raises(ValueError, match="3 and of 4 features .*same layer"):
        frechet_distance(a, b)


# pytorch_fid 0.3 asks SciPy for sqrtm(disp=False), which SciPy deprecated.
@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
@pytest.mark.parametrize("num_features", [2, 64, 192])
def test_distance_is_that_of_pytorch_fid(num_features):
    import_torchvision()
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    x = random_features(0, 500, num_features).astype(np.float32)
    y = random_features(1, 400, num_features).astype(np.float32)
    moments = [(f.mean(axis=0), np.cov(f, rowvar=False)) for f in (np.float64(x), np.float64(y))]
    expected = fid_score.calculate_frechet_distance(*moments[0], *moments[1])
    actual = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
