"""Tests of vae_jax/likelihoods/."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, log_expit, log_softmax, logsumexp

from vae_jax import likelihoods

LEVELS = np.arange(256) / 255.0
GREY_LEVELS = np.float32(LEVELS).reshape(256, 1, 1, 1)
NUM_MIXTURES = 2
NUM_DRAWS = 10_000
MIN_P_VALUE = 1e-3  # for tests of samplers, with fixed keys

LIKELIHOODS = {
    name: likelihoods.create_likelihood(name, num_channels=3, num_mixtures=NUM_MIXTURES)
    for name in likelihoods.names()
}
DISCRETE = [name for name, likelihood in LIKELIHOODS.items() if likelihood.is_discrete]
all_likelihoods = pytest.mark.parametrize("name", likelihoods.names())


@functools.partial(jax.jit, static_argnums=0)
def log_prob(likelihood: likelihoods.Likelihood, outputs, x) -> jax.Array:
    return likelihood.log_prob(outputs, x)


@functools.partial(jax.jit, static_argnums=0)
def log_prob_gradient(likelihood: likelihoods.Likelihood, outputs, x) -> jax.Array:
    """Returns the gradient of the sum over images with respect to the outputs."""
    return jax.grad(lambda outputs: likelihood.log_prob(outputs, x).sum())(outputs)


@functools.partial(jax.jit, static_argnums=0)
def sample(likelihood: likelihoods.Likelihood, seed: int, outputs) -> jax.Array:
    return likelihood.sample(jax.random.key(seed), outputs)


@functools.partial(jax.jit, static_argnums=0)
def mean(likelihood: likelihoods.Likelihood, outputs) -> jax.Array:
    return likelihood.mean(outputs)


# Independent implementations in float64. Outputs [B, H, W, num_outputs], images [B, H, W, C].


def soft_floor(value, floor: float):
    """floor + log(1 + exp(value - floor)) = log(exp(floor) + exp(value))."""
    return np.logaddexp(floor, value)


def bernoulli_log_prob(logits, x):
    return x * log_expit(logits) + (1 - x) * log_expit(-logits)


def continuous_bernoulli_log_normaliser(logits):
    """log of the integral of exp(l x) over [0, 1], which is (exp(l) - 1) / l."""
    size = np.maximum(np.abs(logits), 1e-9)
    return np.log(-np.expm1(-size) / size) + np.maximum(logits, 0)


def continuous_bernoulli_log_prob(logits, x):
    return x * logits - continuous_bernoulli_log_normaliser(logits)


def gaussian_log_prob(outputs, x):
    std = np.exp(soft_floor(outputs[..., -1:], -6.0))
    return scipy.stats.norm.logpdf(x, expit(outputs[..., :-1]), std)


def level_log_mass(x, loc, log_scale):
    """Log-mass of the level x on [0, 1], by the smaller of the logistic's two tails."""
    loc, scale = np.broadcast_arrays(0.5 * (loc + 1), 0.5 * np.exp(log_scale))
    upper = np.where(x > 1 - 0.5 / 255, np.inf, (x + 0.5 / 255 - loc) / scale)
    lower = np.where(x < 0.5 / 255, -np.inf, (x - 0.5 / 255 - loc) / scale)
    flip = lower + upper > 0
    upper, lower = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
    # Much narrower than the scale, the level is a rectangle of the density's height.
    width = np.where(np.isfinite(upper - lower), upper - lower, 1.0)
    is_narrow = width < 1e-4
    difference = np.where(is_narrow, -1.0, log_expit(lower) - log_expit(upper))
    rectangle = scipy.stats.logistic.logpdf(upper - 0.5 * width) + np.log(width)
    return np.where(is_narrow, rectangle, log_expit(upper) + np.log(-np.expm1(difference)))


def discretized_logistic_log_prob(outputs, x):
    loc, log_scale = np.split(outputs, 2, axis=-1)
    return level_log_mass(x, loc, soft_floor(log_scale, -7.0))


def component_locations(parameters, x, channel: int):
    """Locations [..., K] of a channel, on [-1, 1], given the earlier channels' x on [0, 1]."""
    pairs = [(c, earlier) for c in range(parameters["loc"].shape[-1]) for earlier in range(c)]
    loc = parameters["loc"][..., channel]
    for earlier in range(channel):
        slope = np.tanh(parameters["coefficients"][..., pairs.index((channel, earlier))])
        loc = loc + slope * (2 * x[..., earlier, None] - 1)
    return loc


def mixture_log_prob(outputs, x):
    """Returns the log-mass of each pixel, [B, H, W, 1]."""
    parameters = unpack_mixture(outputs, x.shape[-1])
    log_mass = log_softmax(parameters["logits"], axis=-1)
    for channel in range(x.shape[-1]):
        log_scale = soft_floor(parameters["log_scale"][..., channel], -7.0)
        loc = component_locations(parameters, x, channel)
        log_mass = log_mass + level_log_mass(x[..., channel, None], loc, log_scale)
    return logsumexp(log_mass, axis=-1, keepdims=True)


def unpack_mixture(outputs, num_channels: int) -> dict[str, np.ndarray]:
    num_pairs = num_channels * (num_channels - 1) // 2
    num_mixtures = outputs.shape[-1] // (1 + 2 * num_channels + num_pairs)
    rest = outputs[..., num_mixtures:].reshape(*outputs.shape[:-1], num_mixtures, -1)
    return {
        "logits": outputs[..., :num_mixtures],
        "loc": rest[..., :num_channels],
        "log_scale": rest[..., num_channels : 2 * num_channels],
        "coefficients": rest[..., 2 * num_channels :],
    }


def pack_mixture(logits, loc, log_scale, coefficients=None) -> np.ndarray:
    """Outputs [1, 1, 1, num_outputs] of one pixel from logits [K] and the others [K, .]."""
    if coefficients is None:
        coefficients = np.zeros((len(logits), 0))
    rest = np.concatenate([loc, log_scale, coefficients], axis=-1)
    return np.float32(np.concatenate([logits, rest.ravel()]).reshape(1, 1, 1, -1))


REFERENCES = {
    "bernoulli": bernoulli_log_prob,
    "continuous_bernoulli": continuous_bernoulli_log_prob,
    "gaussian": gaussian_log_prob,
    "discretized_logistic": discretized_logistic_log_prob,
    "discretized_logistic_mixture": mixture_log_prob,
}


def reference_log_prob(name: str, outputs, x) -> np.ndarray:
    per_value = REFERENCES[name](np.float64(outputs), np.float64(x))
    return per_value.reshape(len(x), -1).sum(axis=1)


def random_levels(shape: tuple[int, ...]) -> np.ndarray:
    levels = np.random.default_rng(1).integers(0, 256, shape)
    levels.flat[:2] = 0, 255
    return np.float32(levels / 255.0)


def random_outputs(name: str, shape: tuple[int, ...] = (4, 2, 3)) -> np.ndarray:
    num_outputs = LIKELIHOODS[name].num_outputs
    return np.float32(np.random.default_rng(0).normal(size=(*shape, num_outputs)))


def pixel(*outputs: float) -> np.ndarray:
    return np.float32(outputs).reshape(1, 1, 1, -1)


def repeat(outputs, num: int = NUM_DRAWS):
    return jnp.broadcast_to(outputs, (num, *outputs.shape[1:]))


# All likelihoods


@all_likelihoods
def test_log_prob_is_that_of_an_independent_implementation(name):
    outputs, x = random_outputs(name), random_levels((4, 2, 3, 3))
    actual = log_prob(LIKELIHOODS[name], outputs, x)
    assert actual.shape == (4,) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, reference_log_prob(name, outputs, x), rtol=2e-6)


@all_likelihoods
def test_gradient_is_that_of_an_independent_implementation(name):
    outputs, x = random_outputs(name), random_levels((4, 2, 3, 3))
    gradient = log_prob_gradient(LIKELIHOODS[name], outputs, x)
    directions = np.random.default_rng(2).normal(size=(5, *outputs.shape))
    for direction in directions:
        high, low = (
            reference_log_prob(name, outputs + step * direction, x).sum() for step in (1e-5, -1e-5)
        )
        actual = (np.float64(gradient) * direction).sum()
        np.testing.assert_allclose(actual, (high - low) / 2e-5, rtol=1e-4, atol=1e-3)


EXTREME = (-1000.0, -50.0, 0.0, 50.0)
EXTREME_OUTPUTS = {
    "bernoulli": [[v] * 3 for v in (*EXTREME, 1000.0)],
    "continuous_bernoulli": [[v] * 3 for v in (*EXTREME, 1000.0)],
    "gaussian": [[v, -v, 0.5 * v, s] for v in EXTREME for s in (-1000.0, -10.0, 0.0, 50.0)],
    "discretized_logistic": [
        [loc, 1.0, 0.0, log_scale, log_scale, -10.0]
        for loc in (-1000.0, -2.0, 0.3, 5.0, 1000.0)
        for log_scale in (-1000.0, -10.0, 0.0, 50.0)
    ],
    "discretized_logistic_mixture": [
        [logit, 0.0, *[loc, -loc, 0.5, log_scale, -10.0, log_scale, 50.0, -50.0, coefficient] * 2]
        for logit in (-50.0, 50.0)
        for loc in (-1000.0, 0.3)
        for log_scale in (-1000.0, -10.0, 50.0)
        for coefficient in (-50.0, 0.0)
    ],
}


@all_likelihoods
@pytest.mark.parametrize("level", [0, 128, 255])
def test_extreme_outputs_give_the_right_value_and_a_finite_gradient(name, level):
    outputs = np.float32(EXTREME_OUTPUTS[name])[:, None, None]
    x = np.full((len(outputs), 1, 1, 3), level / 255, np.float32)
    actual = log_prob(LIKELIHOODS[name], outputs, x)
    gradient = log_prob_gradient(LIKELIHOODS[name], outputs, x)
    assert jnp.isfinite(actual).all() and jnp.isfinite(gradient).all()
    expected = reference_log_prob(name, outputs, x)
    # x +- 1/255 - loc is rounded to 6e-8 and multiplied by up to exp(7).
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("log_scale", [-1000.0, 0.0, 80.0, 100.0])
@pytest.mark.parametrize("loc", [-1e6, 0.0, 1e6])
def test_discretized_logistic_is_finite_for_every_output(loc, log_scale):
    likelihood = likelihoods.DiscretizedLogistic(num_channels=1)
    outputs = np.broadcast_to(pixel(loc, log_scale), (3, 1, 1, 2))
    x = np.float32([0, 100 / 255, 1]).reshape(3, 1, 1, 1)
    gradient = log_prob_gradient(likelihood, outputs, x)
    assert jnp.isfinite(log_prob(likelihood, outputs, x)).all() and jnp.isfinite(gradient).all()


@all_likelihoods
def test_images_do_not_see_each_other(name):
    likelihood, outputs, x = LIKELIHOODS[name], random_outputs(name), random_levels((4, 2, 3, 3))
    spoilt_outputs, spoilt_x = outputs.copy(), x.copy()
    spoilt_outputs[1:], spoilt_x[2:] = np.nan, 0.0
    before = log_prob(likelihood, outputs, x)
    after = log_prob(likelihood, spoilt_outputs, spoilt_x)
    assert before[0] == after[0] and jnp.isnan(after[1:]).all()
    before, after = mean(likelihood, outputs), mean(likelihood, spoilt_outputs)
    np.testing.assert_array_equal(before[0], after[0])


@all_likelihoods
def test_samples_and_means_of_random_outputs_are_images(name):
    outputs = 10 * random_outputs(name)
    samples, means = sample(LIKELIHOODS[name], 0, outputs), mean(LIKELIHOODS[name], outputs)
    for images in (samples, means):
        assert images.shape == (4, 2, 3, 3) and images.dtype == jnp.float32
        assert images.min() >= 0 and images.max() <= 1
    if name in DISCRETE:
        levels = 255 * np.float64(samples)
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    if name == "bernoulli":
        assert set(np.unique(samples)) == {0.0, 1.0}


INTERIOR_OUTPUTS = {
    "bernoulli": pixel(-1.0, 0.2, 3.0),
    "continuous_bernoulli": pixel(-4.0, 0.05, 2.0),
    "gaussian": pixel(-0.5, 0.0, 0.5, -3.0),
    "discretized_logistic": pixel(-0.3, 0.1, 0.4, -3.5, -4.0, -5.0),
    "discretized_logistic_mixture": pack_mixture(
        logits=[0.0, 1.0],
        loc=[[-0.3, 0.1, 0.2], [0.3, -0.1, 0.0]],
        log_scale=[[-4.0, -5.0, -4.5], [-4.5, -4.0, -5.0]],
        coefficients=[[0.5, -0.3, 0.1], [-0.5, 0.2, 0.3]],
    ),
}


@all_likelihoods
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_rounding_takes_no_mean_out_of_the_range(name, scale):
    outputs = np.float32(
        scale * np.random.default_rng(3).normal(size=(4096, *random_outputs(name).shape[1:]))
    )
    means = mean(LIKELIHOODS[name], outputs)
    assert means.min() >= 0 and means.max() <= 1


def test_rounding_takes_no_continuous_sample_out_of_the_range(monkeypatch):
    """At the largest random number below 1, the closed form gives 1.0000001 for some logits."""
    logits = np.linspace(-30, 30, 6001, dtype=np.float32)
    largest = np.full(logits.shape, np.nextafter(np.float32(1), np.float32(0)))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.asarray(largest))
    samples = CONTINUOUS_BERNOULLI.sample(jax.random.key(0), jnp.asarray(logits))
    assert samples.min() >= 0 and samples.max() <= 1


@all_likelihoods
def test_mean_is_the_mean_of_samples(name):
    likelihood = LIKELIHOODS[name]
    samples = sample(likelihood, 3, repeat(INTERIOR_OUTPUTS[name]))
    samples = np.float64(samples).reshape(NUM_DRAWS, 3)
    standard_error = samples.std(axis=0) / np.sqrt(NUM_DRAWS)
    expected = np.float64(mean(likelihood, INTERIOR_OUTPUTS[name])).ravel()
    assert (np.abs(samples.mean(axis=0) - expected) < 4 * standard_error).all()


# Bernoulli


def test_bernoulli_of_binary_images_is_scipys():
    logits = np.linspace(-8, 8, 12, dtype=np.float32).reshape(12, 1, 1, 1)
    likelihood = likelihoods.Bernoulli(num_channels=1, binarize=True)
    for value in (0, 1):
        x = np.full_like(logits, value)
        # logpmf takes a probability, and 1 - p loses digits at the upper end.
        expected = scipy.stats.bernoulli.logpmf(value, expit(np.float64(logits))).ravel()
        np.testing.assert_allclose(log_prob(likelihood, logits, x), expected, rtol=1e-5, atol=1e-6)


def test_bernoulli_of_grey_images_is_best_at_their_own_probability():
    x = np.float32([0.1, 0.5, 0.8]).reshape(3, 1, 1, 1)
    own_logits = np.log(x / (1 - x))
    likelihood = likelihoods.Bernoulli(num_channels=1)
    best = log_prob(likelihood, own_logits, x)
    np.testing.assert_allclose(best, -scipy.stats.bernoulli.entropy(x.ravel()), rtol=1e-5)
    for shift in (-0.1, 0.1):
        assert (log_prob(likelihood, own_logits + shift, x) < best).all()


# Continuous Bernoulli

CONTINUOUS_BERNOULLI = likelihoods.ContinuousBernoulli(num_channels=1)
LOGITS = [-50.0, -3.0, -0.11, -0.09, 0.0, 0.001, 0.09, 0.11, 3.0, 50.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_integrates_to_1_and_has_the_mean(logit):
    # 64 Gauss-Legendre nodes are exact for polynomials of degree 127: enough for exp(50 x).
    nodes, weights = np.polynomial.legendre.leggauss(64)
    x = np.float32(0.5 * (nodes + 1)).reshape(64, 1, 1, 1)
    log_density = log_prob(CONTINUOUS_BERNOULLI, repeat(pixel(logit), 64), x)
    density = 0.5 * weights * np.exp(np.float64(log_density))
    np.testing.assert_allclose(density.sum(), 1.0, rtol=1e-5)
    actual = mean(CONTINUOUS_BERNOULLI, pixel(logit)).item()
    np.testing.assert_allclose(actual, (density * x.ravel()).sum(), atol=5e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_continuous_bernoulli_is_continuous_where_the_series_takes_over(sign):
    switch = np.float32(0.1)
    logits = sign * np.stack([np.nextafter(switch, np.float32(0)), switch]).reshape(2, 1, 1, 1)
    x = np.full_like(logits, 0.3)
    inside, outside = log_prob(CONTINUOUS_BERNOULLI, logits, x)
    np.testing.assert_allclose(inside, outside, atol=1e-6)
    inside, outside = mean(CONTINUOUS_BERNOULLI, logits)
    np.testing.assert_allclose(inside, outside, atol=5e-6)
    inside, outside = log_prob_gradient(CONTINUOUS_BERNOULLI, logits, x)
    np.testing.assert_allclose(inside, outside, atol=1e-5)


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_samples_follow_the_distribution(logit):
    x = sample(CONTINUOUS_BERNOULLI, 4, repeat(pixel(logit)))

    def cdf(x):
        return np.expm1(logit * x) / np.expm1(logit) if logit else x

    assert scipy.stats.kstest(np.float64(x).ravel(), cdf).pvalue > MIN_P_VALUE


# Gaussian

GAUSSIAN = likelihoods.Gaussian(num_channels=3, gaussian_variance="batch_optimal")


def with_log_std(outputs, log_std) -> jax.Array:
    return jnp.asarray(outputs).at[..., -1].set(log_std)


def test_batch_optimal_sigma_is_the_root_mean_squared_error():
    outputs, x = random_outputs("gaussian"), random_levels((4, 2, 3, 3))
    raw = GAUSSIAN.batch_optimal_log_std(outputs, x)
    assert raw.shape == ()
    error = x - expit(np.float64(outputs[..., :-1]))
    log_rmse = 0.5 * np.log((error**2).mean())
    np.testing.assert_allclose(soft_floor(np.float64(raw), -6.0), log_rmse, atol=1e-6)
    # The log_std in the outputs has no effect.
    assert GAUSSIAN.batch_optimal_log_std(with_log_std(outputs, 3.0), x) == raw


def test_batch_optimal_sigma_maximises_the_likelihood():
    outputs, x = random_outputs("gaussian"), random_levels((4, 2, 3, 3))
    raw = GAUSSIAN.batch_optimal_log_std(outputs, x)

    def batch_log_prob(log_std):
        return log_prob(GAUSSIAN, with_log_std(outputs, log_std), x).sum()

    best, slope = jax.value_and_grad(batch_log_prob)(raw)
    # The second derivative is about -2 x.size, so that a shift by 0.05 costs x.size / 400.
    for shift in (-0.05, 0.05):
        assert batch_log_prob(raw + shift) < best - x.size / 500
    assert abs(slope) < 1e-5 * x.size


@pytest.mark.parametrize("error", [0.0, 1e-6, 1e-3])
def test_batch_optimal_sigma_does_not_fall_below_its_floor(error):
    outputs = np.zeros((2, 1, 1, 4), np.float32)  # sigmoid(0) = 0.5
    x = np.full((2, 1, 1, 3), 0.5 + error, np.float32)
    raw = GAUSSIAN.batch_optimal_log_std(outputs, x)
    assert jnp.isfinite(raw)
    np.testing.assert_allclose(soft_floor(np.float64(raw), -6.0), -6.0, atol=2e-3)
    assert jnp.isfinite(log_prob_gradient(GAUSSIAN, with_log_std(outputs, raw), x)).all()


def test_gradient_with_batch_optimal_sigma_is_that_of_the_log_of_the_error():
    outputs, x = random_outputs("gaussian"), random_levels((4, 2, 3, 3))

    def negative_log_prob(outputs):
        log_std = GAUSSIAN.batch_optimal_log_std(outputs, x)
        return -GAUSSIAN.log_prob(with_log_std(outputs, log_std), x).sum()

    def log_of_the_error(outputs):
        return 0.5 * x.size * jnp.log(jnp.mean((x - jax.nn.sigmoid(outputs[..., :-1])) ** 2))

    actual = jax.grad(negative_log_prob)(outputs)
    np.testing.assert_allclose(actual, jax.grad(log_of_the_error)(outputs), rtol=1e-4, atol=1e-5)


def test_gaussian_samples_follow_the_distribution_and_are_clipped():
    likelihood = likelihoods.Gaussian(num_channels=1)
    std = np.exp(soft_floor(-1.5, -6.0))
    x = np.float64(sample(likelihood, 5, repeat(pixel(0.5, -1.5)))).ravel()
    normal = scipy.stats.norm(expit(0.5), std)
    inside = x[(x > 0) & (x < 1)]
    counts = [(x == 0).sum(), len(inside), (x == 1).sum()]
    probabilities = np.diff([0, normal.cdf(0), normal.cdf(1), 1])
    assert scipy.stats.chisquare(counts, NUM_DRAWS * probabilities).pvalue > MIN_P_VALUE
    truncated = scipy.stats.truncnorm(-normal.mean() / std, (1 - normal.mean()) / std)
    assert scipy.stats.kstest((inside - normal.mean()) / std, truncated.cdf).pvalue > MIN_P_VALUE


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("std", [1e-3, 0.1, 1.0, 30.0])
def test_fixed_variance_is_scipys_normal_without_a_parameter(std, num_channels):
    likelihood = likelihoods.create_likelihood(
        "gaussian", num_channels, gaussian_variance="fixed", gaussian_std=std
    )
    assert not likelihood.has_log_std and likelihood.num_outputs == num_channels
    assert likelihoods.Gaussian(num_channels).has_log_std
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4, 2, 3, num_channels)).astype(np.float32)
    x = random_levels((4, 2, 3, num_channels))
    location = expit(np.float64(outputs))
    expected = scipy.stats.norm.logpdf(np.float64(x), location, std).reshape(4, -1).sum(axis=1)
    np.testing.assert_allclose(log_prob(likelihood, outputs, x), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(mean(likelihood, outputs), location, rtol=1e-5)
    # d/dl (x - s(l))^2 / 2 std^2, with s' = s (1 - s).
    slope = (x - location) * location * (1 - location) / std**2
    gradient = log_prob_gradient(likelihood, outputs, x)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


def test_fixed_variance_is_that_of_the_samples():
    likelihood = likelihoods.Gaussian(1, gaussian_variance="fixed", gaussian_std=0.05)
    x = np.float64(sample(likelihood, 6, repeat(pixel(0.3)))).ravel()
    # The edges are 8 standard deviations away.
    assert scipy.stats.kstest(x, scipy.stats.norm(expit(0.3), 0.05).cdf).pvalue > MIN_P_VALUE


# Discretised logistics


@pytest.mark.parametrize("log_scale", [-10.0, -3.0, 0.0, 5.0])
@pytest.mark.parametrize("loc", [-30.0, -1.0, 0.1, 1.0])
def test_discretized_logistic_mass_sums_to_1(loc, log_scale):
    likelihood = likelihoods.DiscretizedLogistic(num_channels=1)
    log_mass = log_prob(likelihood, repeat(pixel(loc, log_scale), 256), GREY_LEVELS)
    np.testing.assert_allclose(np.exp(np.float64(log_mass)).sum(), 1.0, rtol=1e-4)


MIXTURE = {
    "logits": np.array([0.3, -0.5]),
    "loc": np.array([[-0.4, 0.1, 0.9], [0.5, -0.8, -0.2]]),
    "log_scale": np.array([[-2.0, -1.5, -2.5], [-1.0, -3.0, -1.5]]),
    "coefficients": np.array([[0.9, -0.7, 1.2], [-1.5, 0.3, -0.6]]),  # G on R; B on R, on G
}


def leading_channels(num_channels: int) -> np.ndarray:
    """Outputs of the mixture's first channels alone."""
    num_pairs = num_channels * (num_channels - 1) // 2
    return pack_mixture(
        MIXTURE["logits"],
        MIXTURE["loc"][:, :num_channels],
        MIXTURE["log_scale"][:, :num_channels],
        MIXTURE["coefficients"][:, :num_pairs],
    )


@pytest.mark.parametrize("earlier", [(), (0,), (200,), (0, 255), (90, 17)])
def test_mixture_mass_summed_over_the_last_channel_is_the_mass_of_the_earlier(earlier):
    earlier, num_channels = np.float32(np.array(earlier) / 255), len(earlier) + 1
    x = np.concatenate([np.broadcast_to(earlier, (256, num_channels - 1)), LEVELS[:, None]], axis=1)
    likelihood = likelihoods.DiscretizedLogisticMixture(num_channels, NUM_MIXTURES)
    outputs = repeat(leading_channels(num_channels), 256)
    log_mass = log_prob(likelihood, outputs, np.float32(x).reshape(256, 1, 1, -1))
    expected = 1.0
    if num_channels > 1:
        fewer = likelihoods.DiscretizedLogisticMixture(num_channels - 1, NUM_MIXTURES)
        outputs = leading_channels(num_channels - 1)
        expected = np.exp(log_prob(fewer, outputs, earlier.reshape(1, 1, 1, -1)))
    np.testing.assert_allclose(np.exp(np.float64(log_mass)).sum(), expected, rtol=1e-5)


def test_mixture_that_is_uniform_costs_8_bits_per_level():
    # One component on each level, all alike: by symmetry each inner level loses to its neighbours
    # what it gains from them, up to what components outside the range would add, sigmoid(-13) of
    # a level at the floor exp(-7) of the scales.
    loc, log_scale = 2 * LEVELS[:, None] - 1, np.full((256, 1), -30.0)
    likelihood = likelihoods.DiscretizedLogisticMixture(num_channels=1, num_mixtures=256)
    outputs = repeat(pack_mixture(np.zeros(256), loc, log_scale), 256)
    bits = -np.float64(log_prob(likelihood, outputs, GREY_LEVELS)) / np.log(2)
    np.testing.assert_allclose(bits, np.full(256, 8.0), atol=1e-4)


def test_mixture_of_equal_components_is_one_logistic():
    x = random_levels((4, 2, 3, 3))
    single = random_outputs("discretized_logistic")
    loc, log_scale = np.split(single, 2, axis=-1)
    component = np.concatenate([loc, log_scale, np.zeros_like(loc)], axis=-1)
    logits = random_outputs("discretized_logistic")[..., :NUM_MIXTURES]
    outputs = np.concatenate([logits, *[component] * NUM_MIXTURES], axis=-1)
    np.testing.assert_allclose(
        log_prob(LIKELIHOODS["discretized_logistic_mixture"], outputs, x),
        log_prob(LIKELIHOODS["discretized_logistic"], single, x),
        rtol=1e-6,
    )


def test_mixture_shifts_a_location_by_at_most_the_earlier_value():
    # tanh(50) = 1: the second channel is located where the first is, or at its mirror image.
    outputs = [pack_mixture([0.0], [[0.0, 0.0]], [[-10.0, -10.0]], [[c]]) for c in (50.0, -50.0)]
    likelihood = likelihoods.DiscretizedLogisticMixture(num_channels=2, num_mixtures=1)
    x = np.float32([51, 51, 51, 204]).reshape(2, 1, 1, 2) / 255
    same, mirrored = (log_prob(likelihood, repeat(o, 2), x) for o in outputs)
    np.testing.assert_allclose(same[0], mirrored[1], rtol=1e-4)
    assert same[0] > same[1] + 100 and mirrored[1] > mirrored[0] + 100


def merge_rare(observed: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins the cells with fewer than 5 expected draws, as the chi-square test needs."""
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    return observed, expected * observed.sum() / expected.sum()


@pytest.mark.parametrize(("loc", "log_scale"), [(0.1, -3.0), (-0.9, -1.5), (3.0, 0.0)])
def test_discretized_logistic_samples_have_the_frequencies_of_the_mass(loc, log_scale):
    outputs = repeat(pixel(loc, log_scale))
    images = sample(likelihoods.DiscretizedLogistic(num_channels=1), 6, outputs)
    levels = np.rint(255 * np.float64(images)).astype(int).ravel()
    mass = np.exp(level_log_mass(LEVELS, loc, soft_floor(log_scale, -7.0)))
    observed, expected = merge_rare(np.bincount(levels, minlength=256), NUM_DRAWS * mass)
    assert scipy.stats.chisquare(observed, expected).pvalue > MIN_P_VALUE


def test_mixture_samples_have_the_joint_frequencies_of_the_mass():
    """Counts of (R, G, B) in 4 x 4 x 4 bins of 64 levels."""
    likelihood = LIKELIHOODS["discretized_logistic_mixture"]
    images = sample(likelihood, 7, repeat(leading_channels(3)))
    bins = np.rint(255 * np.float64(images)).astype(int).reshape(NUM_DRAWS, 3) // 64
    observed = np.bincount(bins @ [16, 4, 1], minlength=64)

    red, green = np.meshgrid(LEVELS, LEVELS, indexing="ij")
    log_scale = soft_floor(MIXTURE["log_scale"], -7.0)
    mass = np.zeros((4, 4, 4))
    for k, weight in enumerate(np.exp(log_softmax(MIXTURE["logits"]))):
        component = {name: value[k : k + 1] for name, value in MIXTURE.items()}
        earlier = np.stack([red, green], axis=-1)
        loc = [component_locations(component, earlier, channel)[..., 0] for channel in range(3)]
        first_two = np.exp(
            level_log_mass(red, loc[0], log_scale[k, 0])
            + level_log_mass(green, loc[1], log_scale[k, 1])
        )
        # Blue's bins end halfway between two levels, the outer two at infinity.
        ends = 2 * (np.array([63.5, 127.5, 191.5]) / 255) - 1
        below = expit((ends - loc[2][..., None]) / np.exp(log_scale[k, 2]))
        blue = np.diff(below, axis=-1, prepend=0.0, append=1.0)
        joint = weight * first_two[..., None] * blue
        mass += joint.reshape(4, 64, 4, 64, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-9)
    observed, expected = merge_rare(observed, NUM_DRAWS * mass.ravel())
    assert scipy.stats.chisquare(observed, expected).pvalue > MIN_P_VALUE


# Creation


@pytest.mark.parametrize("num_channels", [1, 3])
@all_likelihoods
def test_num_outputs(name, num_channels):
    num_pairs = {1: 0, 3: 3}[num_channels]  # of a channel and an earlier one
    expected = {
        "bernoulli": num_channels,
        "continuous_bernoulli": num_channels,
        "gaussian": num_channels + 1,
        "discretized_logistic": 2 * num_channels,
        "discretized_logistic_mixture": 7 * (1 + 2 * num_channels + num_pairs),
    }[name]
    likelihood = likelihoods.create_likelihood(name, num_channels, num_mixtures=7)
    assert likelihood.num_outputs == expected
    images = jax.eval_shape(likelihood.mean, jnp.zeros((2, 4, 5, expected)))
    assert images.shape == (2, 4, 5, num_channels)


def test_options_reach_the_likelihood():
    create = likelihoods.create_likelihood
    assert create("bernoulli", 1, binarize=True).binarize
    assert not create("bernoulli", 1).binarize
    optimal = create("gaussian", 1, gaussian_variance="batch_optimal")
    assert optimal.gaussian_variance == "batch_optimal"
    assert create("gaussian", 1, gaussian_variance="fixed", gaussian_std=0.3).gaussian_std == 0.3
    assert create("discretized_logistic_mixture", 1, num_mixtures=4).num_mixtures == 4


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "laplace"}, "likelihood.name = 'laplace' is unknown: use one of bernoulli, cont"),
        (
            {"name": "bernoulli", "num_mixtures": 0},
            "likelihood.num_mixtures = 0 must be an integer from 1",
        ),
        (
            {"name": "gaussian", "gaussian_variance": "constant"},
            "gaussian_variance = 'constant' is unknown: use one of learned, batch_optimal, fixed",
        ),
        ({"name": "gaussian", "gaussian_std": 0.0}, "gaussian_std = 0.0 must be a number from"),
        ({"name": "gaussian", "gaussian_std": -1.0}, "gaussian_std = -1.0 must be a number from"),
        ({"name": "gaussian", "gaussian_std": np.nan}, "gaussian_std = nan must be a number from"),
        ({"name": "gaussian", "binarize": True}, "likelihood.binarize = True .*name = 'gaussian'"),
    ],
)
def test_create_likelihood_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        likelihoods.create_likelihood(num_channels=1, **arguments)
