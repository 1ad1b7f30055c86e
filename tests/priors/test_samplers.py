"""Tests of vae_jax/priors/samplers.py."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from vae_jax.priors import samplers

GAMMA_MIN, GAMMA_MAX = -10.0, 8.0
DETERMINISTIC = ("ddim", "heun")
# Independent Gaussian latents, one column each.
MEAN, STD = np.array([1.0, 0.0, -0.5]), np.array([0.3, 1.0, 2.0])
NUM_SAMPLES = 20_000

every_sampler = pytest.mark.parametrize("name", samplers.names())
every_deterministic = pytest.mark.parametrize("name", DETERMINISTIC)


def levels(num_steps: int) -> np.ndarray:
    return np.linspace(GAMMA_MAX, GAMMA_MIN, num_steps + 1)


def alpha_sigma(gamma):
    """Returns both in float64, from the definition."""
    return np.sqrt(expit(-gamma)), np.sqrt(expit(gamma))


def gaussian_v(z, gamma):
    """E[v | z_t] where z ~ N(MEAN, STD^2): Cov(v, z_t) = alpha sigma (1 - STD^2)."""
    alpha_squared, sigma_squared = jax.nn.sigmoid(-gamma), jax.nn.sigmoid(gamma)
    alpha, sigma = jnp.sqrt(alpha_squared), jnp.sqrt(sigma_squared)
    slope = alpha * sigma * (1.0 - STD**2) / (alpha_squared * STD**2 + sigma_squared)
    return slope * (z - alpha * MEAN) - sigma * MEAN


def zero_v(z, gamma):
    return jnp.zeros_like(z)


def linear_v(z, gamma):
    """An arbitrary linear map that mixes columns."""
    return jnp.tanh(gamma) * (0.3 * z - 0.2 * z[:, ::-1])


def nonlinear_v(z, gamma):
    return jnp.tanh(z + 0.1 * gamma)


def draw(name, predict_v, num_steps, key=0, num_samples=NUM_SAMPLES, temperature=1.0):
    shape = (num_samples, len(STD))
    gammas = jnp.asarray(levels(num_steps), jnp.float32)
    key = jax.random.key(key)
    return np.float64(samplers.sample(name, predict_v, key, shape, gammas, temperature))


def draw_start(key=0, num_samples=NUM_SAMPLES):
    """Returns the noise that `draw` starts from: without steps, only the last division is done."""
    return draw("ddim", zero_v, 0, key, num_samples) * alpha_sigma(GAMMA_MAX)[0]


# Noise levels and single steps


def test_alpha_and_sigma_are_of_unit_length_and_their_ratio_is_the_noise_level():
    gamma = np.linspace(-30.0, 30.0, 41)
    alpha, sigma = samplers.alpha_sigma(jnp.asarray(gamma, jnp.float32))
    assert alpha.dtype == sigma.dtype == jnp.float32
    alpha, sigma = np.float64(alpha), np.float64(sigma)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(2.0 * np.log(sigma / alpha), gamma, rtol=1e-5, atol=1e-5)


def noised(gamma, z, noise):
    alpha, sigma = alpha_sigma(gamma)
    return alpha * z + sigma * noise


def true_v(z, noise):
    """Returns a predictor that knows the true v."""

    def predict_v(z_t, gamma):
        alpha, sigma = alpha_sigma(float(gamma))
        np.testing.assert_allclose(z_t, noised(float(gamma), z, noise), atol=1e-5)
        v = alpha * noise - sigma * z
        # Both identities in the docstring of the module.
        np.testing.assert_allclose(alpha * z_t - sigma * v, z, atol=1e-5)
        np.testing.assert_allclose(sigma * z_t + alpha * v, noise, atol=1e-5)
        return jnp.asarray(v, jnp.float32)

    return predict_v


PAIRS = [(3.0, 2.0), (1.0, -1.0), (8.0, -10.0), (-4.0, -4.5)]


@pytest.mark.parametrize(("gamma", "next_gamma"), PAIRS)
@every_deterministic
def test_deterministic_steps_given_the_true_v_keep_latent_and_noise(name, gamma, next_gamma):
    z, noise = np.random.default_rng(0).normal(size=(2, 6, 3))
    z_t = jnp.asarray(noised(gamma, z, noise), jnp.float32)
    stepped = samplers.REGISTRY[name].step(true_v(z, noise), z_t, gamma, next_gamma, None)
    # At gamma = 8 dividing by alpha makes errors of rounding 50 times as large.
    np.testing.assert_allclose(stepped, noised(next_gamma, z, noise), atol=1e-4)


@pytest.mark.parametrize(("gamma", "next_gamma"), PAIRS)
def test_ancestral_step_given_the_true_v_is_the_posterior_of_the_less_noisy(gamma, next_gamma):
    z, noise = np.random.default_rng(0).normal(size=(2, 6, 3))
    z_t = noised(gamma, z, noise)
    # Bayes: z_s ~ N(next_alpha z, next_sigma^2) and z_t | z_s ~ N(ratio z_s, added).
    (alpha, sigma), (next_alpha, next_sigma) = alpha_sigma(gamma), alpha_sigma(next_gamma)
    ratio = alpha / next_alpha
    added = sigma**2 - (ratio * next_sigma) ** 2
    precision = next_sigma**-2 + ratio**2 / added
    mean = (next_alpha * z / next_sigma**2 + ratio * z_t / added) / precision
    own_noise = np.random.default_rng(1).normal(size=z.shape)
    stepped = samplers.REGISTRY["ancestral"].step(
        true_v(z, noise), jnp.asarray(z_t, jnp.float32), gamma, next_gamma, own_noise
    )
    np.testing.assert_allclose(stepped, mean + own_noise / np.sqrt(precision), atol=1e-4)


# Closed forms


def test_ddim_of_v_0_shrinks_by_the_cosine_of_each_rotation():
    for num_steps in (1, 7, 30):
        angles = np.arctan(np.exp(0.5 * levels(num_steps)))
        expected = np.cos(np.diff(angles)).prod() / math.cos(angles[-1])
        samples = draw("ddim", zero_v, num_steps, num_samples=50)
        np.testing.assert_allclose(samples, expected * draw_start(num_samples=50), rtol=1e-4)


def solve_gaussian_ode(start: np.ndarray) -> np.ndarray:
    """Returns the limit of infinitely many steps, which keep quantiles."""
    alpha, sigma = alpha_sigma(np.array([GAMMA_MAX, GAMMA_MIN])[:, None])
    first_std, last_std = np.sqrt((alpha * STD) ** 2 + sigma**2)
    return MEAN + last_std / first_std * (start - alpha[0] * MEAN) / alpha[1]


def test_deterministic_samplers_converge_to_the_gaussian_at_their_order():
    start = draw_start()
    exact = solve_gaussian_ode(start)
    errors = {
        name: np.array(
            [
                np.sqrt(((draw(name, gaussian_v, n) - exact) ** 2).mean(axis=0))
                for n in (10, 20, 40, 80)
            ]
        )
        for name in DETERMINISTIC
    }
    for name, (low, high) in {"ddim": (1.8, 2.2), "heun": (3.5, 5.5)}.items():
        ratios = errors[name][:-1] / errors[name][1:]
        assert (low < ratios).all() and (ratios < high).all(), (name, ratios)
    assert (errors["heun"] < errors["ddim"]).all()
    samples = draw("heun", gaussian_v, 80)
    standard_error = STD / math.sqrt(NUM_SAMPLES)
    assert (np.abs(samples.mean(axis=0) - MEAN) < 4.0 * standard_error + 0.01 * STD).all()
    np.testing.assert_allclose(samples.std(axis=0), STD, rtol=0.03)


def test_noise_and_latents_are_mapped_along_the_curve_of_the_gaussian_in_both_directions():
    start = draw_start(num_samples=200)
    exact = solve_gaussian_ode(start)
    gammas = jnp.asarray(levels(100), jnp.float32)
    z = samplers.from_noise(gaussian_v, jnp.asarray(start, jnp.float32), gammas)
    np.testing.assert_allclose(z, exact, rtol=0.01, atol=0.01)
    noise = samplers.to_noise(gaussian_v, jnp.asarray(exact, jnp.float32), gammas)
    np.testing.assert_allclose(noise, start, rtol=0.02, atol=0.02)


def test_more_steps_restore_latents_from_their_noise_more_closely():
    z = np.random.default_rng(0).normal(size=(50, len(STD))).astype(np.float32)

    def error(num_steps: int) -> float:
        gammas = jnp.asarray(levels(num_steps), jnp.float32)
        noise = samplers.to_noise(nonlinear_v, z, gammas)
        assert np.abs(noise - z).max() > 0.5
        return np.abs(samplers.from_noise(nonlinear_v, noise, gammas) - z).max()

    assert error(200) < 0.01
    assert error(50) > 5.0 * error(200)


def ancestral_moments(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance after so many exact transitions with x replaced by E[x | z_t]."""
    gammas = levels(num_steps)
    mean, variance = np.zeros_like(MEAN), np.ones_like(STD)
    for gamma, next_gamma in itertools.pairwise(gammas):
        (alpha, sigma), (next_alpha, next_sigma) = alpha_sigma(gamma), alpha_sigma(next_gamma)
        gain = alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2)  # E[x | z_t] = MEAN + gain (...)
        ratio = alpha / next_alpha
        added = sigma**2 - (ratio * next_sigma) ** 2
        from_z, from_x = ratio * next_sigma**2 / sigma**2, next_alpha * added / sigma**2
        mean = from_z * mean + from_x * (MEAN + gain * (mean - alpha * MEAN))
        variance = (from_z + from_x * gain) ** 2 * variance + added * next_sigma**2 / sigma**2
    alpha = alpha_sigma(gammas[-1])[0]
    return mean / alpha, variance / alpha**2


def test_ancestral_sampler_has_the_moments_of_its_transitions_and_converges():
    errors = []
    for num_steps in (10, 40, 160):
        mean, variance = ancestral_moments(num_steps)
        samples = draw("ancestral", gaussian_v, num_steps)
        standard_error = np.sqrt(variance / NUM_SAMPLES)
        assert (np.abs(samples.mean(axis=0) - mean) < 4.0 * standard_error).all()
        relative = samples.var(axis=0) / variance - 1.0
        assert (np.abs(relative) < 4.0 * math.sqrt(2.0 / NUM_SAMPLES)).all()
        errors.append(np.abs(samples.std(axis=0) / STD - 1.0))
    errors = np.array(errors)
    assert (errors[1:] < 0.5 * errors[:-1]).all()  # first order: a quarter at best
    assert (errors[-1] < 0.04).all()
    assert (np.abs(samples.mean(axis=0) - MEAN) < 0.05 * STD).all()


# Noise


@every_sampler
def test_temperature_scales_what_a_linear_network_makes_of_noise(name):
    samples = draw(name, linear_v, 12, num_samples=50)
    for temperature in (0.0, 0.5, 2.0):
        scaled = draw(name, linear_v, 12, num_samples=50, temperature=temperature)
        np.testing.assert_allclose(scaled, temperature * samples, rtol=1e-4, atol=1e-5)


@every_deterministic
def test_deterministic_samplers_use_the_key_for_the_start_alone(name):
    z = jnp.asarray(draw_start(key=3, num_samples=50), jnp.float32)
    gammas = levels(12)
    for gamma, next_gamma in itertools.pairwise(gammas):
        z = samplers.REGISTRY[name].step(nonlinear_v, z, gamma, next_gamma, None)
    samples = draw(name, nonlinear_v, 12, key=3, num_samples=50)
    np.testing.assert_allclose(samples, z / alpha_sigma(GAMMA_MIN)[0], rtol=1e-4, atol=1e-5)


@every_sampler
def test_keys_and_rows_make_different_samples_of_the_shape(name):
    samples = [draw(name, nonlinear_v, 3, key=key, num_samples=4) for key in (0, 0, 1)]
    assert samples[0].shape == (4, 3)
    np.testing.assert_array_equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).all() and (samples[0][0] != samples[0][1]).all()


def test_ancestral_noise_is_independent_of_the_start_and_of_other_steps():
    # Given v = 0 a sample is the sum of multiples of the start and of every step's noise. The
    # multiples are those that a step has for a start of 1 without noise, and the reverse.
    gammas = levels(3)
    step = samplers.REGISTRY["ancestral"].step
    one, zero = jnp.ones(()), jnp.zeros(())
    variance = 1.0
    for gamma, next_gamma in itertools.pairwise(gammas):
        kept = float(step(zero_v, one, gamma, next_gamma, zero))
        added = float(step(zero_v, zero, gamma, next_gamma, one))
        variance = kept**2 * variance + added**2
    samples, start = draw("ancestral", zero_v, 3), draw_start()
    relative = samples.var(axis=0) * alpha_sigma(GAMMA_MIN)[0] ** 2 / variance - 1.0
    assert (np.abs(relative) < 4.0 * math.sqrt(2.0 / NUM_SAMPLES)).all()
    last_alone = draw("ancestral", zero_v, 3, key=1)
    correlation = np.corrcoef(np.concatenate([samples, last_alone, start], axis=1).T)
    # Only a sample and its own start are correlated.
    kept = math.prod(
        float(step(zero_v, one, gamma, next_gamma, zero))
        for gamma, next_gamma in itertools.pairwise(gammas)
    )
    expected = np.eye(9)
    expected[:3, 6:] = expected[6:, :3] = kept / math.sqrt(variance) * np.eye(3)
    np.testing.assert_allclose(correlation, expected, atol=4.5 / math.sqrt(NUM_SAMPLES))
