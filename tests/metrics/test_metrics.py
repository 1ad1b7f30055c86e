"""Tests of vae_jax/metrics/reconstruction.py and vae_jax/metrics/latents.py."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from scipy.special import logsumexp
from skimage.metrics import structural_similarity

from vae_jax.metrics import latents, reconstruction

# Reconstructions


def image_pairs(num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [3, 16, 20, num_channels] in [0, 1]; their partners: noisy, inverted, unrelated."""
    rng = np.random.default_rng(0)
    x, other = rng.uniform(size=(2, 3, 16, 20, num_channels))
    noisy = np.clip(x[0] + 0.1 * rng.normal(size=x[0].shape), 0, 1)
    y = np.stack([noisy, 1 - x[1], other[2]])
    return x.astype(np.float32), y.astype(np.float32)


def test_psnr_of_a_known_error():
    x = np.full((3, 4, 4, 3), 0.5, np.float32)
    error = np.array([0.1, 0.01, 0.5]).reshape(3, 1, 1, 1)
    # -10 log10(e^2) = -20 log10(e)
    np.testing.assert_allclose(reconstruction.psnr(x, x + error), [20, 40, 6.0206], rtol=1e-4)


def test_psnr_averages_the_error_over_the_image_before_the_logarithm():
    x, y = image_pairs(3)
    mse = ((x.astype(np.float64) - y) ** 2).reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(reconstruction.psnr(x, y), 10 * np.log10(1 / mse), rtol=1e-5)


def test_psnr_of_equal_images_is_infinite():
    x, _ = image_pairs(1)
    assert np.isposinf(reconstruction.psnr(x, x)).all()


@pytest.mark.parametrize("num_channels", [1, 3])
def test_ssim_is_that_of_scikit_image(num_channels):
    x, y = image_pairs(num_channels)
    expected = [
        structural_similarity(
            a,
            b,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True)
    ]
    assert max(expected) > 0.9 and min(expected) < -0.5  # the pairs cover the range
    np.testing.assert_allclose(reconstruction.ssim(x, y), expected, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, None])
def test_ssim_of_equal_images_is_1(value):
    x = image_pairs(1)[0] if value is None else np.full((3, 16, 20, 1), value, np.float32)
    np.testing.assert_allclose(reconstruction.ssim(x, x), np.ones(3), rtol=1e-6)


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b = 0.2, 0.7
    x, y = np.full((1, 11, 11, 1), a), np.full((1, 11, 11, 1), b)
    expected = (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
    np.testing.assert_allclose(reconstruction.ssim(x, y), [expected], rtol=1e-3)


@pytest.mark.parametrize("measure", reconstruction.MEASURES, ids=lambda measure: measure.name)
def test_measure_takes_images_of_its_smallest_side(measure):
    side = measure.smallest_side
    x, y = np.random.default_rng(0).uniform(size=(2, 3, side, side, 1)).astype(np.float32)
    assert np.isfinite(measure.function(x, y)).tolist() == [True] * 3


# Active units


def test_active_units_counts_dimensions_by_the_variance_of_the_mean():
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    # Values +-a have variance a^2 whatever they are centred on; the threshold is 0.1^2.
    amplitudes, centres = np.array([0.0, 0.0999, 0.1001, 2.0]), np.array([5.0, 100.0, 0.0, -3.0])
    means = centres + signs[:, None] * amplitudes
    assert latents.active_units(means) == 2
    assert latents.active_units(means[:, 2:]) == 2
    assert latents.active_units(means[:, :2]) == 0


def test_active_units_of_a_grid_counts_each_position_and_channel():
    means = np.zeros((6, 2, 2, 3), np.float32)
    means[::2, 0, 1, 2] = means[::2, 1, 1, 0] = 1.0
    assert latents.active_units(means) == 2


def test_active_units_takes_the_variance_in_float64():
    # Around 1000 the variance 0.04 is lost in float32 sums of squares.
    means = np.float32(1000.0) + np.tile(np.float32([0.25, -0.25]), 500)[:, None]
    assert latents.active_units(means) == 1


# Principal directions


def test_principal_directions_are_those_of_draws_of_the_posteriors():
    means, log_stds = random_posteriors(500, 6)
    means *= np.array([3.0, 0.1, 2.0, 0.1, 0.1, 1.0])
    directions, stds = latents.principal_directions(
        means.reshape(500, 1, 2, 3), log_stds.reshape(500, 1, 2, 3), 2
    )
    assert directions.shape == (2, 1, 2, 3)
    rng = np.random.default_rng(0)
    draws = np.concatenate(
        [means + np.exp(log_stds) * rng.normal(size=means.shape) for _ in range(100)]
    )
    _, singular, rows = np.linalg.svd(draws - draws.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(stds, singular[:2] / np.sqrt(len(draws)), rtol=0.01)
    flat = directions.reshape(2, 6)
    np.testing.assert_allclose(np.abs((flat * rows[:2]).sum(axis=1)), 1.0, atol=0.01)


def test_no_more_directions_than_dimensions():
    directions, stds = latents.principal_directions(*random_posteriors(20, 3), 5)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)
    assert len(stds) == 3 and (np.diff(stds) < 0).all()
    one, (std,) = latents.principal_directions(np.array([[1.0], [-1.0]]), np.zeros((2, 1)), 5)
    assert abs(one.item()) == 1.0
    np.testing.assert_allclose(std, np.sqrt(1.0 + 1.0))


# Aggregate posterior and mutual information


def random_posteriors(num_images: int, num_dims: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (num_images, num_dims)
    return rng.normal(size=shape), rng.normal(-1.0, 0.5, size=shape)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_aggregate_log_prob_is_that_of_the_mixture(batch_size):
    means, log_stds = random_posteriors(5, 3)
    z = 2 * np.random.default_rng(2).normal(size=(7, 3))
    each = scipy.stats.norm.logpdf(z[:, None], means, np.exp(log_stds)).sum(axis=-1)
    expected = logsumexp(each, axis=1) - np.log(5)
    actual = latents.aggregate_log_prob(z, means, log_stds, batch_size)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_aggregate_log_prob_of_narrow_posteriors_far_from_the_origin():
    means, log_stds = np.array([[50.0, -30.0], [51.0, -30.0]]), np.full((2, 2), np.log(1e-3))
    z = means[:1] + 1e-3
    # One standard deviation in both dimensions from one component, 1000 from the other.
    expected = -np.log(2) + 2 * scipy.stats.norm.logpdf(1.0) - 2 * np.log(1e-3)
    np.testing.assert_allclose(
        latents.aggregate_log_prob(z, means, log_stds), [expected], atol=1e-5
    )


def mutual_information(*arguments) -> tuple[float, float]:
    """Returns the estimate of the mutual information and its standard error."""
    draws = latents.mutual_information(*arguments)
    return draws.mean(), scipy.stats.sem(draws)


def test_mutual_information_of_identical_posteriors_is_0():
    means, log_stds = np.full((50, 2, 2, 1), 0.7), np.full((50, 2, 2, 1), -0.3)
    information, standard_error = mutual_information(means, log_stds, 50, np.random.default_rng(0))
    assert abs(information) < 1e-12 and standard_error < 1e-12


@pytest.mark.parametrize("shape", [(64, 3), (64, 1, 1, 3)])
def test_mutual_information_of_separated_posteriors_is_log_n(shape):
    means = np.broadcast_to(np.arange(64.0).reshape(64, *[1] * (len(shape) - 1)), shape)
    information, standard_error = mutual_information(
        means, np.full(shape, np.log(0.01)), 20, np.random.default_rng(0)
    )
    np.testing.assert_allclose(information, np.log(64), rtol=1e-9)
    assert standard_error < 1e-7


def test_mutual_information_of_a_gaussian_channel():
    # z = x + noise, with x at the quantiles of a normal distribution of variance 4.
    num_images, variance, noise_std = 2000, 4.0, 0.5
    quantiles = (np.arange(num_images) + 0.5) / num_images
    means = np.sqrt(variance) * scipy.stats.norm.ppf(quantiles)[:, None]
    information, standard_error = mutual_information(
        means, np.full_like(means, np.log(noise_std)), num_images, np.random.default_rng(0)
    )
    capacity = 0.5 * np.log(1 + variance / noise_std**2)
    assert abs(information - capacity) < 4 * standard_error < 0.1


def test_mutual_information_of_two_overlapping_clusters():
    # Half of the posteriors at +1, half at -1: an equal mixture of two normals.
    num_images = 1000
    means = np.repeat([[1.0], [-1.0]], num_images // 2, axis=0)
    z = scipy.stats.norm

    def integrand(value):
        density = z.pdf(value, loc=1.0)
        return density * (np.log(2 * density) - np.log(density + z.pdf(value, loc=-1.0)))

    expected, _ = scipy.integrate.quad(integrand, -10, 10)
    information, standard_error = mutual_information(
        means, np.zeros_like(means), num_images, np.random.default_rng(0)
    )
    assert abs(information - expected) < 4 * standard_error < 0.1


def test_standard_error_of_mutual_information_is_the_spread_of_estimates():
    means, log_stds = random_posteriors(300, 2)
    estimates, standard_errors = np.transpose(
        [
            mutual_information(means, log_stds, 50, np.random.default_rng(seed))
            for seed in range(100)
        ]
    )
    # The spread of 100 estimates is itself known to about 1 / sqrt(200) = 7%.
    assert 0.75 < estimates.std(ddof=1) / standard_errors.mean() < 1.25
