"""Tests of vae_jax/distributions.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from vae_jax.distributions import (
    DiagonalGaussian,
    normal_log_prob,
    standard_normal_log_prob,
    sum_event,
)

LATENT_SHAPES = [(5,), (2, 3, 4)]
BATCH_SIZE = 3


def random_gaussian(latent_shape: tuple[int, ...]) -> tuple[DiagonalGaussian, np.ndarray]:
    """(a Gaussian, values near it [B, *latent_shape])."""
    rng = np.random.default_rng(0)
    mean, log_std, z = rng.normal(size=(3, BATCH_SIZE, *latent_shape)).astype(np.float32)
    return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_std)), z


def test_sum_event_sums_all_but_the_batch_axis():
    values = np.arange(24.0).reshape(2, 3, 4)
    for shape in [(2, 12), (2, 3, 4), (2, 2, 3, 2)]:
        actual = sum_event(jnp.asarray(values.reshape(shape)))
        np.testing.assert_array_equal(actual, [66.0, 210.0])  # 0 + ... + 11, 12 + ... + 23
    np.testing.assert_array_equal(sum_event(jnp.asarray([4.0, 5.0])), [4.0, 5.0])


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_log_prob_is_scipys_summed_over_the_latent(latent_shape):
    q, z = random_gaussian(latent_shape)
    elementwise = scipy.stats.norm.logpdf(z, q.mean, np.exp(np.float64(q.log_std)))
    np.testing.assert_allclose(normal_log_prob(z, q.mean, q.log_std), elementwise, rtol=2e-5)
    expected = elementwise.reshape(BATCH_SIZE, -1).sum(axis=1)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-5)
    prior = scipy.stats.norm.logpdf(z.astype(np.float64)).reshape(BATCH_SIZE, -1).sum(axis=1)
    np.testing.assert_allclose(standard_normal_log_prob(z), prior, rtol=1e-5)


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_kl_keeps_the_latent_shape_and_agrees_with_quadrature(latent_shape):
    q, _ = random_gaussian(latent_shape)
    kl = q.kl_to_standard_normal()
    assert kl.shape == (BATCH_SIZE, *latent_shape) and kl.dtype == jnp.float32
    for index in [(0,) * kl.ndim, tuple(n - 1 for n in kl.shape)]:
        dimension = scipy.stats.norm(float(q.mean[index]), float(q.std[index]))

        def integrand(z, dimension=dimension):
            return dimension.pdf(z) * (dimension.logpdf(z) - scipy.stats.norm.logpdf(z))

        low, high = dimension.mean() - 12 * dimension.std(), dimension.mean() + 12 * dimension.std()
        expected, _ = scipy.integrate.quad(integrand, low, high, epsabs=1e-10)
        np.testing.assert_allclose(kl[index], expected, rtol=1e-5, atol=1e-6)


def test_kl_agrees_with_monte_carlo():
    num_samples = 20_000
    mean, log_std = jnp.asarray([0.5, -1.0, 0.0]), jnp.asarray([-1.0, 0.3, 0.0])
    q = DiagonalGaussian(
        jnp.broadcast_to(mean, (num_samples, 3)), jnp.broadcast_to(log_std, (num_samples, 3))
    )
    z = q.reparameterise(jax.random.normal(jax.random.key(0), (num_samples, 3)))
    log_ratio = np.asarray(q.log_prob(z) - standard_normal_log_prob(z), np.float64)
    standard_error = log_ratio.std(ddof=1) / np.sqrt(num_samples)
    assert abs(log_ratio.mean() - float(q.kl_to_standard_normal()[0].sum())) < 4 * standard_error


def test_kl_vanishes_at_the_prior_and_is_accurate_near_it():
    log_std = jnp.asarray([[0.0, 1e-3, -1e-3, 1e-2, -1e-2]])
    kl = DiagonalGaussian(jnp.zeros((1, 5)), log_std).kl_to_standard_normal()
    assert kl[0, 0] == 0.0
    # With mean 0 the divergence is (expm1(2 l) - 2 l) / 2 = l^2 + O(l^3).
    exact = 0.5 * np.expm1(2 * np.float64(log_std)) - np.float64(log_std)
    np.testing.assert_allclose(kl, exact, atol=2e-7)


def test_reparameterised_samples_have_the_moments():
    num_samples, mean, std = 20_000, np.array([1.5, -2.0]), np.array([0.2, 3.0])
    shape = (num_samples, 2)
    q = DiagonalGaussian(jnp.broadcast_to(mean, shape), jnp.broadcast_to(np.log(std), shape))
    z = np.float64(q.reparameterise(jax.random.normal(jax.random.key(1), shape)))
    assert (np.abs(z.mean(axis=0) - mean) < 4 * std / np.sqrt(num_samples)).all()
    assert (np.abs(z.var(axis=0) / std**2 - 1) < 4 * np.sqrt(2 / num_samples)).all()
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(num_samples)


def test_gradients_of_a_sample():
    q, noise = random_gaussian((5,))
    gradient = jax.grad(lambda q: q.reparameterise(noise).sum())(q)
    np.testing.assert_array_equal(gradient.mean, np.ones_like(noise))
    std = np.exp(np.float64(q.log_std))
    np.testing.assert_allclose(gradient.log_std, std * noise, rtol=1e-5)
    np.testing.assert_allclose(q.std, std, rtol=1e-6)


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_rows_do_not_see_each_other(latent_shape):
    q, z = random_gaussian(latent_shape)
    spoilt = DiagonalGaussian(q.mean.at[1:].set(jnp.nan), q.log_std.at[1:].set(jnp.inf))
    assert spoilt.log_prob(z)[0] == q.log_prob(z)[0]
    np.testing.assert_array_equal(spoilt.kl_to_standard_normal()[0], q.kl_to_standard_normal()[0])
    np.testing.assert_array_equal(spoilt.reparameterise(z)[0], q.reparameterise(z)[0])
