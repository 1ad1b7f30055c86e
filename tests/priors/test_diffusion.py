"""Tests of vae_jax/priors/diffusion.py."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.optimize
import scipy.spatial
import scipy.stats
from scipy.special import expit, softmax

from tests.priors.test_flow import two_moons
from vae_jax.distributions import (
    DiagonalGaussian,
    normal_log_prob,
    standard_normal_log_prob,
    sum_event,
)
from vae_jax.objectives import compute_rate
from vae_jax.priors import samplers
from vae_jax.priors.diffusion import (
    WEIGHTINGS,
    Diffusion,
)
from vae_jax.priors.networks import MLP
from vae_jax.priors.noise_schedule import NUM_BINS, UNIFORM_SHARE, NoiseSchedule

GAMMA_MIN, GAMMA_MAX = -10.0, 8.0  # of Diffusion
RANGE = GAMMA_MAX - GAMMA_MIN
SMALL_MLP = MLP(8, 1, jnp.float32)


def predict_wave(z, gamma, xp=jnp):
    """Predicts a v that belongs to no particular density."""
    return 0.7 * xp.tanh(z + 0.3) * xp.cos(0.3 * gamma)


class Wave(nn.Module):
    @nn.compact
    def __call__(self, z, gamma):
        return predict_wave(z, gamma[:, None])


class Gaussian(nn.Module):
    """E[v | z_t] where z ~ N(0, std^2 I): Cov(v, z_t) / Var(z_t) times z_t."""

    std: float

    @nn.compact
    def __call__(self, z, gamma):
        gamma = gamma.reshape(-1, *[1] * (z.ndim - 1))
        alpha_squared, sigma_squared = jax.nn.sigmoid(-gamma), jax.nn.sigmoid(gamma)
        covariance = jnp.sqrt(alpha_squared * sigma_squared) * (1.0 - self.std**2)
        return covariance / (alpha_squared * self.std**2 + sigma_squared) * z


@functools.cache
def initial_network_params(network: nn.Module, latent_shape: tuple[int, ...]) -> dict:
    z, gamma = jnp.zeros((1, *latent_shape)), jnp.zeros(1)
    return jax.jit(network.init)(jax.random.key(0), z, gamma).get("params", {})


def initial_params(prior: Diffusion) -> dict:
    """Returns parameters as `init` does; priors with the same network share the compilation."""
    params = {"schedule": {"logits": jnp.zeros(NUM_BINS)}}
    if network := initial_network_params(prior.network, prior.latent_shape):
        params["network"] = network
    return params


def random_params(prior: Diffusion, scale: float = 0.2) -> dict:
    """Parameters with noise on every one."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: p + jnp.asarray(scale * rng.normal(size=p.shape), p.dtype), initial_params(prior)
    )


def schedule_params(prior: Diffusion, logits) -> dict:
    params = initial_params(prior)
    return params | {"schedule": {"logits": jnp.asarray(logits, jnp.float32)}}


def split(num_keys: int, seed: int = 1) -> jax.Array:
    return jax.random.split(jax.random.key(seed), num_keys)


@functools.cache
def compile_method(prior: Diffusion, method: str):
    return jax.jit(functools.partial(prior.apply, method=method))


@functools.cache
def compile_losses(prior: Diffusion):
    def loss(params, z, key):
        return prior.apply({"params": params}, z, key, method="loss")

    return jax.jit(jax.vmap(loss, in_axes=(None, None, 0)))


@functools.cache
def compile_gradient(prior: Diffusion):
    def mean_loss(params, z, key):
        return prior.apply({"params": params}, z, key, method="loss")[0].mean()

    return jax.jit(jax.grad(mean_loss))


def log_prob(prior: Diffusion, params: dict, z, seed: int = 1) -> np.ndarray:
    """Returns one estimate of the bound of each row."""
    return np.float64(compile_method(prior, "log_prob")({"params": params}, z, split(len(z), seed)))


def log_probs(prior: Diffusion, params: dict, z, num_estimates: int) -> np.ndarray:
    """Returns independent estimates of the bound of each row, [num_estimates, B]."""
    return log_prob(prior, params, np.tile(z, (num_estimates, 1))).reshape(num_estimates, len(z))


def losses(prior: Diffusion, params: dict, z, num_estimates: int) -> np.ndarray:
    """Returns independent losses and bounds of the same batch, [2, num_estimates, B]."""
    return np.float64(jnp.stack(compile_losses(prior)(params, z, split(num_estimates))))


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_mean(values: np.ndarray, expected, margin: float = 0.0) -> None:
    """Asserts that the mean over axis 0 is within `margin` and 4 standard errors of `expected`."""
    standard_error = values.std(axis=0) / math.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) < 4.0 * standard_error + margin).all(), (
        values.mean(axis=0),
        expected,
        standard_error,
    )


# The bound of Kingma et al. 2021, in float64: both end points and the diffusion loss


def alpha_sigma(gamma):
    return np.sqrt(expit(-gamma)), np.sqrt(expit(gamma))


def end_points(z_squared, gamma_min: float = GAMMA_MIN, gamma_max: float = GAMMA_MAX):
    """KL(q(z_1 | z), N(0, 1)) + E[-log N(z; z_0 / alpha_0, (sigma_0 / alpha_0)^2)]."""
    (alpha, sigma), (first_alpha, first_sigma) = alpha_sigma(gamma_max), alpha_sigma(gamma_min)
    kl = 0.5 * (alpha**2 * z_squared + sigma**2 - 1.0) - np.log(sigma)
    return kl + 0.5 * (math.log(2.0 * math.pi) + 1.0) + np.log(first_sigma / first_alpha)


def squared_noise_error(z: float, gamma, predict_v) -> np.ndarray:
    """E[(noise - predicted noise)^2 | z] at each noise level, by Gauss-Hermite quadrature."""
    noise, weights = np.polynomial.hermite_e.hermegauss(60)
    gamma = np.asarray(gamma)[:, None]
    alpha, sigma = alpha_sigma(gamma)
    z_t = alpha * z + sigma * noise
    error = noise - (sigma * z_t + alpha * predict_v(z_t, gamma))
    return (error**2 * weights).sum(axis=1) / weights.sum()


def integrate_bound(z: np.ndarray, predict_v, gamma_min: float = GAMMA_MIN) -> np.ndarray:
    """The bound on log p(z) of each row, for a network that acts on each dimension alone."""
    gamma = np.linspace(gamma_min, GAMMA_MAX, 2001)

    def one_dimension(z):
        loss = 0.5 * scipy.integrate.simpson(squared_noise_error(z, gamma, predict_v), x=gamma)
        return -(end_points(z**2, gamma_min) + loss)

    return np.vectorize(one_dimension, otypes=[float])(np.float64(z)).sum(axis=1)


def predict_zero(z, gamma):
    return np.zeros_like(z)


# A network that predicts 0


def test_untrained_network_is_the_standard_normal_without_noise():
    z = normal((6, 3)) * np.linspace(0.0, 4.0, 6, dtype=np.float32)[:, None]
    errors = []
    for gamma_min in (-4.0, -7.0, -10.0):
        prior = Diffusion((3,), SMALL_MLP, gamma_min=gamma_min)
        params = initial_params(prior)
        values = log_prob(prior, params, z)
        np.testing.assert_array_equal(values, log_prob(prior, params, z, seed=2))
        np.testing.assert_allclose(
            values, integrate_bound(z, predict_zero, gamma_min=gamma_min), rtol=1e-5
        )
        exact = np.float64(standard_normal_log_prob(z))
        squared = (z**2).sum(axis=1)
        # Half of sigma^2 |z|^2 minus D (sigma^2 - log alpha^2), which is a little over 2 D sigma^2.
        order = 0.5 * math.exp(gamma_min) * (squared + 2.1 * 3)
        assert (np.abs(values - exact) < order + 1e-5 * np.abs(exact)).all()
        # The model adds noise of variance exp(gamma_min) to N(0, I), and this is a bound on it.
        variance = 1.0 + math.exp(gamma_min)
        model = -0.5 * (squared / variance + 3 * math.log(2.0 * math.pi * variance))
        assert (values < model + 1e-5 * np.abs(model)).all()
        errors.append(np.abs(values - exact).max())
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1]
    _, bounds = losses(prior, params, z, 2)
    np.testing.assert_allclose(bounds, [values, values], rtol=1e-6)


# The optimal network of a Gaussian


def gaussian_bound(std: float, gamma_min: float, gamma_max: float) -> float:
    """Returns the mean bound of the optimal network over z ~ N(0, std^2)."""

    def contribution(gamma):
        alpha, sigma = alpha_sigma(gamma)
        covariance = alpha * sigma * (1.0 - std**2)
        variance_v, variance_z = alpha**2 + (sigma * std) ** 2, (alpha * std) ** 2 + sigma**2
        return 0.5 * alpha**2 * (variance_v - covariance**2 / variance_z)

    loss, _ = scipy.integrate.quad(contribution, gamma_min, gamma_max, epsabs=1e-10)
    return -(end_points(std**2, gamma_min, gamma_max) + loss)


@pytest.mark.parametrize(
    ("std", "gamma_min", "gamma_max"),
    [(0.3, -10.0, 8.0), (1.0, -10.0, 8.0), (2.0, -10.0, 8.0), (0.3, -4.0, 3.0), (2.0, -4.0, 2.0)],
)
def test_bound_of_a_gaussian_is_the_closed_form_and_nearly_tight(std, gamma_min, gamma_max):
    shape, num_samples = (2, 1, 2), 20_000
    num_dims = math.prod(shape)
    prior = Diffusion(shape, Gaussian(std), gamma_min=gamma_min, gamma_max=gamma_max)
    z = std * normal((num_samples, *shape))
    exact = np.float64(sum_event(normal_log_prob(z, jnp.zeros(()), jnp.log(std))))
    # Minus the exact density, which removes most of the variation with z.
    gaps = log_prob(prior, initial_params(prior), z) - exact
    standard_error = gaps.std() / math.sqrt(num_samples)
    assert standard_error < 0.02
    entropy = 0.5 * (math.log(2.0 * math.pi * std**2) + 1.0)
    expected_gap = num_dims * (gaussian_bound(std, gamma_min, gamma_max) + entropy)
    assert_mean(gaps, expected_gap, margin=1e-4)
    # The gap comes from the noise that the model adds, of variance exp(gamma_min), and from
    # q(z_1), which is not N(0, I).
    terminal = (1.0 - std**2) ** 2 * math.exp(-2.0 * gamma_max)
    assert -0.5 * num_dims * (math.exp(gamma_min) / std**2 + terminal) < expected_gap < 1e-9
    if gamma_min == -4.0:  # the gap is large enough to be seen
        assert gaps.mean() < -4.0 * standard_error


# Unbiased with every schedule

SCHEDULES = {
    "uniform": np.zeros(NUM_BINS),
    "random": np.random.default_rng(0).normal(scale=1.5, size=NUM_BINS),
    "one bin": 50.0 * (np.arange(NUM_BINS) == 20),
}
every_schedule = pytest.mark.parametrize("logits", SCHEDULES.values(), ids=SCHEDULES)
ROWS = np.array([[0.5, -1.0], [2.0, 0.1], [-0.3, -3.0]], np.float32)


@every_schedule
def test_estimates_of_log_prob_are_unbiased_for_every_row(logits):
    prior = Diffusion((2,), Wave())
    params = schedule_params(prior, logits)
    expected = integrate_bound(ROWS, functools.partial(predict_wave, xp=np))
    estimates = log_probs(prior, params, ROWS, 10_000)
    assert (estimates.std(axis=0) > 0.01).all()
    assert_mean(estimates, expected)
    _, bounds = losses(prior, params, ROWS, 30_000)
    assert_mean(bounds, expected)


def cosine_schedule_loss(z: np.ndarray, predict_v) -> np.ndarray:
    """DDPM's mean squared error of the noise over uniform times of a cosine schedule, times pi.

    alpha = cos(pi t / 2): gamma = 2 log tan(pi t / 2). Times of noise levels out of range are left
    out.
    """
    first, last = 2.0 / np.pi * np.arctan(np.exp(0.5 * np.array([GAMMA_MIN, GAMMA_MAX])))
    t = np.linspace(first, last, 4001)
    gamma = 2.0 * np.log(np.tan(0.5 * np.pi * t))

    def one_dimension(z):
        return np.pi * scipy.integrate.simpson(squared_noise_error(z, gamma, predict_v), x=t)

    return np.vectorize(one_dimension, otypes=[float])(np.float64(z)).sum(axis=1)


@every_schedule
def test_simple_loss_is_that_of_ddpm_on_a_cosine_schedule(logits):
    for network, predict_v in (
        (SMALL_MLP, predict_zero),
        (Wave(), functools.partial(predict_wave, xp=np)),
    ):
        prior = Diffusion((2,), network, weighting="simple")
        loss, _ = losses(prior, schedule_params(prior, logits), ROWS, 20_000)
        assert_mean(loss, cosine_schedule_loss(ROWS, predict_v))


def test_simple_loss_of_v_0_is_a_closed_integral():
    def contribution(gamma, squared):
        alpha, sigma = alpha_sigma(gamma)
        v_squared = 2 * alpha**2 + sigma**2 * squared
        return 0.5 / np.cosh(0.5 * gamma) * alpha**2 * v_squared

    expected = [
        scipy.integrate.quad(contribution, GAMMA_MIN, GAMMA_MAX, args=(squared,))[0]
        for squared in (ROWS**2).sum(axis=1)
    ]
    np.testing.assert_allclose(cosine_schedule_loss(ROWS, predict_zero), expected, rtol=1e-5)


# Draws


def test_loss_and_log_prob_are_of_the_same_draws_whatever_the_weighting():
    by_bound, simple = (Diffusion((3,), SMALL_MLP, weighting=name) for name in WEIGHTINGS)
    params, z = random_params(by_bound), normal((4, 3))
    loss, bound = losses(by_bound, params, z, 3)
    assert loss.shape == bound.shape == (3, 4)
    np.testing.assert_array_equal(loss, -bound)
    simple_loss, simple_bound = losses(simple, params, z, 3)
    np.testing.assert_allclose(simple_bound, bound, rtol=1e-6)
    assert (simple_loss > 0.0).all() and (np.abs(simple_loss - loss) > 0.01).all()
    np.testing.assert_allclose(
        log_prob(simple, params, z), log_prob(by_bound, params, z), rtol=1e-6
    )
    assert by_bound.weighting == "bound" == Diffusion((3,), SMALL_MLP).weighting
    assert not by_bound.is_exact and by_bound.samples_in_steps


def test_draws_of_a_row_depend_on_its_key_alone():
    prior = Diffusion((3,), SMALL_MLP)
    params = {"params": random_params(prior)}
    z, keys = np.tile(normal((1, 3)), (4, 1)), split(4)
    values = compile_method(prior, "log_prob")(params, z, keys)
    assert len(set(values.tolist())) == 4
    order = jnp.array([2, 0, 0, 1])
    reordered = compile_method(prior, "log_prob")(params, z, keys[order])
    np.testing.assert_allclose(reordered, values[order], rtol=1e-6)


def test_initial_parameters_are_those_of_these_tests():
    prior = Diffusion((3,), SMALL_MLP)
    z, key = jnp.zeros((2, 3)), jax.random.key(0)
    params = jax.eval_shape(functools.partial(prior.init, method="loss"), key, z, key)["params"]
    expected = jax.eval_shape(lambda: initial_params(prior))
    assert params == expected


def test_more_draws_give_less_noise():
    variances = []
    for num_draws in (1, 8):
        prior = Diffusion((2,), Wave(), num_draws=num_draws)
        variances.append(log_probs(prior, initial_params(prior), ROWS, 2000).var(axis=0))
    # A variance over 2000 has an error of 10 %; draws from parts of [0, 1] gain more than 8.
    assert (variances[1] < 1.2 / 8 * variances[0]).all()


# Gradients


def test_gradients_reach_network_and_schedule_which_learns_from_its_fit_alone():
    z, key = 0.5 * normal((16, 3)), jax.random.key(3)
    trained = []
    for weighting in WEIGHTINGS:
        prior = Diffusion((3,), SMALL_MLP, weighting=weighting)
        gradient = compile_gradient(prior)
        untrained = gradient(initial_params(prior), z, key)
        assert jnp.abs(untrained["network"]["head"]["kernel"]).max() > 1e-3
        trained.append(gradient(random_params(prior), z, key))
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained[-1]):
            assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 1e-4, path
    bound, simple = trained
    np.testing.assert_allclose(
        bound["schedule"]["logits"], simple["schedule"]["logits"], rtol=1e-4, atol=1e-6
    )
    bias = bound["network"]["head"]["bias"]
    assert not np.allclose(bias, simple["network"]["head"]["bias"], rtol=0.05)


class Signs(nn.Module):
    """For z = 10: much better than v = 0 at gamma in (-3, 0), as much worse in (0, 3), else 0."""

    @nn.compact
    def __call__(self, z, gamma):
        # v is -10 sigma or nearly, and a (a + 20 sigma) is -100 sigma^2 or 100 sigma^2.
        factor = jnp.where(gamma < 0.0, -10.0, 10.0 * (math.sqrt(2.0) - 1.0))
        predicted = factor * jnp.sqrt(jax.nn.sigmoid(gamma))
        return jnp.where(jnp.abs(gamma) < 3.0, predicted, 0.0)[:, None]


def test_schedule_moves_to_levels_that_matter_for_better_or_worse():
    prior = Diffusion((1,), Signs())
    z, gradient = np.full((200, 1), 10.0, np.float32), compile_gradient(prior)
    leaf = np.mean(
        [gradient(initial_params(prior), z, key)["schedule"]["logits"] for key in split(20)], axis=0
    )
    assert (leaf[np.abs(bin_centres()) < 1.5] < 0.0).all()
    assert (leaf[np.abs(bin_centres()) > 3.2] > 0.0).all()


# The noise schedule


def bind_schedule(logits, method: str):
    schedule = NoiseSchedule(GAMMA_MIN, GAMMA_MAX)
    params = {"params": {"logits": jnp.asarray(logits, jnp.float32)}}
    return jax.jit(lambda *arguments: schedule.apply(params, *arguments, method=method))


def bin_probabilities(logits) -> np.ndarray:
    return (1.0 - UNIFORM_SHARE) * softmax(logits) + UNIFORM_SHARE / NUM_BINS


def bin_centres() -> np.ndarray:
    return GAMMA_MIN + RANGE * (np.arange(NUM_BINS) + 0.5) / NUM_BINS


@every_schedule
def test_schedule_is_monotone_between_its_ends_with_the_inverse_density_for_slope(logits):
    gamma, density = bind_schedule(logits, "gamma"), bind_schedule(logits, "density")
    t = jnp.linspace(0.0, 1.0, 5001)
    levels = np.float64(gamma(t))
    np.testing.assert_allclose(levels[[0, -1]], [GAMMA_MIN, GAMMA_MAX], rtol=1e-6)
    assert (np.diff(levels) > 0.0).all()
    # Midpoints of bins integrate a histogram exactly.
    bin_densities = np.float64(density(bin_centres()))
    np.testing.assert_allclose(bin_densities.sum() * RANGE / NUM_BINS, 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        bin_densities * RANGE / NUM_BINS, bin_probabilities(logits), rtol=1e-5
    )
    # dt / dgamma within a bin, a quarter of whose probability lies on either side.
    probabilities = bin_probabilities(logits)
    middle = np.cumsum(probabilities) - 0.5 * probabilities
    after, before = gamma(middle + 0.25 * probabilities), gamma(middle - 0.25 * probabilities)
    slope = (np.float64(after) - np.float64(before)) / (0.5 * probabilities)
    np.testing.assert_allclose(1.0 / bin_densities, slope, rtol=2e-3)


@every_schedule
def test_noise_levels_of_uniform_times_have_the_density(logits):
    times = np.random.default_rng(0).random(20_000)
    levels = np.float64(bind_schedule(logits, "gamma")(times))
    edges = np.linspace(GAMMA_MIN, GAMMA_MAX, NUM_BINS + 1)
    centres = np.float64(bind_schedule(logits, "density")(bin_centres())) * RANGE / NUM_BINS
    cumulative = np.concatenate([[0.0], np.cumsum(centres)])
    test = scipy.stats.kstest(levels, lambda gamma: np.interp(gamma, edges, cumulative))
    assert test.pvalue > 1e-3
    counts = np.histogram(levels, edges)[0]
    assert scipy.stats.chisquare(counts, len(levels) * centres / centres.sum()).pvalue > 1e-3


def test_uniform_share_keeps_every_noise_level():
    gamma = np.linspace(GAMMA_MIN, GAMMA_MAX, 1001)
    for logits in (SCHEDULES["one bin"], 1e4 * SCHEDULES["random"]):
        density = bind_schedule(logits, "density")(gamma)
        assert (density >= 0.2 / RANGE * (1.0 - 1e-5)).all()
        assert density.max() > 0.8 * NUM_BINS / RANGE


def test_no_gradient_flows_through_noise_levels():
    schedule = NoiseSchedule(GAMMA_MIN, GAMMA_MAX)

    def total(logits):
        return schedule.apply({"params": {"logits": logits}}, jnp.array([0.3, 0.6]), method="gamma")

    jacobian = jax.jacrev(total)(jnp.asarray(SCHEDULES["random"], jnp.float32))
    np.testing.assert_array_equal(jacobian, np.zeros((2, NUM_BINS)))


def fit_gradient(logits, gamma, contributions) -> tuple[np.ndarray, np.ndarray]:
    """The term itself, [B], and the gradient of its mean."""
    schedule = NoiseSchedule(GAMMA_MIN, GAMMA_MAX)

    def mean_fit(logits):
        values = schedule.apply({"params": {"logits": logits}}, gamma, contributions, method="fit")
        return values.mean(), values

    gradient, values = jax.grad(mean_fit, has_aux=True)(jnp.asarray(logits, jnp.float32))
    return np.asarray(values), np.asarray(gradient)


def test_fit_is_0_with_the_gradient_of_a_cross_entropy():
    rng = np.random.default_rng(1)
    logits = SCHEDULES["random"]
    bins = rng.integers(NUM_BINS, size=300)
    contributions = rng.exponential(size=300)
    values, gradient = fit_gradient(logits, bin_centres()[bins], contributions)
    np.testing.assert_array_equal(values, np.zeros(300))
    # d log p_k / d logit_j = 0.8 q_k ([j = k] - q_j) / p_k
    q, p = softmax(logits), bin_probabilities(logits)
    log_prob_gradient = 0.8 * (q / p)[bins, None] * (np.eye(NUM_BINS)[bins] - q)
    weights = contributions / contributions.mean()
    np.testing.assert_allclose(
        gradient, -(weights[:, None] * log_prob_gradient).mean(axis=0), atol=1e-6
    )
    _, scaled = fit_gradient(logits, bin_centres()[bins], 1e3 * contributions)
    np.testing.assert_allclose(scaled, gradient, atol=1e-6)
    values, gradient = fit_gradient(logits, bin_centres()[bins], np.zeros(300))
    np.testing.assert_array_equal(values, np.zeros(300))
    np.testing.assert_array_equal(gradient, np.zeros(NUM_BINS))


def test_fit_brings_the_schedule_to_the_least_cross_entropy():
    # In proportion to the contributions, except in bins at the floor of the uniform share, by the
    # Karush-Kuhn-Tucker conditions on q >= 0.
    contributions = np.clip(1.0 - np.abs(bin_centres() + 3.0) / 4.0, 0.0, None)
    contributions /= contributions.sum()
    floor = UNIFORM_SHARE / NUM_BINS

    def mixed(factor):
        return np.maximum(factor * contributions, floor)

    optimum = mixed(scipy.optimize.brentq(lambda factor: mixed(factor).sum() - 1.0, 0.1, 2.0))
    assert (optimum == floor).sum() > 10 and (optimum > 5.0 * floor).sum() > 10

    schedule = NoiseSchedule(GAMMA_MIN, GAMMA_MAX)
    optimizer = optax.adam(0.1)
    shares = jnp.asarray(contributions, jnp.float32)

    @jax.jit
    def step(logits, state, offset):
        params = {"params": {"logits": logits}}
        gamma = schedule.apply(params, (jnp.arange(2000) + offset) / 2000, method="gamma")
        bins = jnp.clip((gamma - GAMMA_MIN) / RANGE * NUM_BINS, 0, NUM_BINS - 1).astype(int)
        estimates = shares[bins] / schedule.apply(params, gamma, method="density")

        def loss(logits):
            params = {"params": {"logits": logits}}
            return schedule.apply(params, gamma, estimates, method="fit").mean()

        updates, state = optimizer.update(jax.grad(loss)(logits), state)
        return optax.apply_updates(logits, updates), state

    logits = jnp.zeros(NUM_BINS)
    state = optimizer.init(logits)
    for offset in np.random.default_rng(0).random(200):
        logits, state = step(logits, state, offset)
    np.testing.assert_allclose(bin_probabilities(logits), optimum, rtol=0.1, atol=5e-4)


# The bound on log p(x)


class LinearGaussian:
    """z ~ N(0, std^2 I) in two dimensions, x = weights z + noise in three."""

    noise_std = 0.5

    def __init__(self, std: float):
        self.std = std
        rng = np.random.default_rng(0)
        self.scales = np.array([1.5, 0.6])
        self.weights = np.linalg.qr(rng.normal(size=(3, 2)))[0] * self.scales

    def draw(self, num_samples: int) -> np.ndarray:
        rng = np.random.default_rng(1)
        z = self.std * rng.normal(size=(num_samples, 2))
        return z @ self.weights.T + self.noise_std * rng.normal(size=(num_samples, 3))

    def evidence(self, x: np.ndarray) -> np.ndarray:
        covariance = self.std**2 * self.weights @ self.weights.T + self.noise_std**2 * np.eye(3)
        return scipy.stats.multivariate_normal.logpdf(x, cov=covariance)

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of p(z | x), diagonal as the weights are orthogonal."""
        precision = self.std**-2 + (self.scales / self.noise_std) ** 2
        mean = x @ self.weights / (self.noise_std**2 * precision)
        return mean, np.broadcast_to(precision**-0.5, mean.shape)

    def elbo(self, prior: Diffusion, params: dict, x, mean, std) -> np.ndarray:
        """Returns one estimate for each row with q(z | x) = N(mean, std^2)."""
        posterior = DiagonalGaussian(jnp.asarray(mean), jnp.log(std))
        z = posterior.reparameterise(normal(mean.shape))
        log_likelihood = normal_log_prob(x, z @ self.weights.T, math.log(self.noise_std))
        log_prior = log_prob(prior, params, z)
        return np.float64(sum_event(log_likelihood) - compute_rate(posterior, z, log_prior))


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_elbo_of_a_linear_gaussian_model_is_never_above_the_evidence(std):
    prior = Diffusion((2,), SMALL_MLP if std == 1.0 else Gaussian(std))
    model, num_draws = LinearGaussian(std), 4000
    x = model.draw(4)
    x[-1] *= 3.0  # an outlier
    exact_mean, exact_std = model.posterior(x)
    for shift, factor in ((0.0, 1.0), (0.2, 1.5), (-0.4, 0.4)):
        mean, scale = exact_mean + shift, exact_std * factor
        # KL(q, p(z | x))
        gap = 0.5 * (factor**2 + (shift / exact_std) ** 2 - 1.0) - math.log(factor)
        rows = (np.tile(values, (num_draws, 1)) for values in (x, mean, scale))
        elbo = model.elbo(prior, initial_params(prior), *rows).reshape(num_draws, len(x))
        # The model adds noise of variance exp(gamma_min) to z.
        margin = math.exp(GAMMA_MIN) / std**2 * (2.0 + (mean**2).sum(axis=1) / std**2)
        assert_mean(elbo, model.evidence(x) - gap.sum(axis=1), margin)
        assert (elbo.std(axis=0) / math.sqrt(num_draws) < 0.05).all()


def test_elbo_of_another_prior_is_on_average_below_the_evidence():
    # For some x another prior's evidence is larger, but not on average over x of the model.
    prior, model = Diffusion((2,), SMALL_MLP), LinearGaussian(1.0)
    x = model.draw(16_000)
    elbo = model.elbo(prior, random_params(prior), x, *model.posterior(x))
    gaps = elbo - model.evidence(x)
    assert gaps.mean() < -5.0 * gaps.std() / math.sqrt(len(gaps))


# Samples


@pytest.mark.parametrize("name", samplers.names())
def test_samples_come_from_the_sampler_in_equal_steps_of_gamma(name):
    prior = Diffusion((3,), SMALL_MLP, sampler=name, num_sampling_steps=5)
    params = random_params(prior, scale=0.5)
    key, temperature = jax.random.key(2), 0.7
    samples = prior.apply({"params": params}, key, 4, temperature, method="sample")
    assert (samples.shape, samples.dtype) == ((4, 3), jnp.float32)

    def predict_v(z, gamma):
        return SMALL_MLP.apply({"params": params["network"]}, z, jnp.full(4, gamma))

    gammas = jnp.asarray(GAMMA_MAX - RANGE / 5 * np.arange(6), jnp.float32)
    expected = samplers.sample(name, predict_v, key, (4, 3), gammas, temperature)
    np.testing.assert_allclose(samples, expected, rtol=2e-3, atol=1e-4)
    untrained = prior.apply({"params": initial_params(prior)}, key, 4, method="sample")
    assert not np.allclose(samples, temperature * untrained, rtol=0.05)


@pytest.mark.parametrize("std", [0.3, 2.0])
@every_schedule
def test_samples_of_the_optimal_network_are_of_the_gaussian(std, logits):
    """The learned schedule has no effect; at its quantiles they would be up to a quarter wider."""
    shape = (2, 1, 2)
    prior = Diffusion(shape, Gaussian(std), sampler="heun", num_sampling_steps=40)
    params = {"params": schedule_params(prior, logits)}
    samples = prior.apply(params, jax.random.key(0), 5000, method="sample")
    # 40 steps make them 1 % too wide; 4 standard errors of a standard deviation are 3 %.
    assert samples.shape == (5000, *shape)
    np.testing.assert_allclose(samples.std(axis=0), std * np.ones(shape), rtol=0.05)


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_noise_of_draws_of_the_gaussian_is_standard_normal_and_gives_them_back(std):
    shape = (2, 1, 2)
    prior = Diffusion(shape, Gaussian(std))
    params = {"params": initial_params(prior)}
    z = std * np.random.default_rng(0).normal(size=(2000, *shape)).astype(np.float32)
    noise = prior.apply(params, z, method="to_noise")
    np.testing.assert_allclose(noise, z / std, rtol=0.05, atol=0.02)
    back = prior.apply(params, noise, method="from_noise")
    np.testing.assert_allclose(back, z, rtol=0.02, atol=0.02)


# Learning


@pytest.mark.long
def test_learns_two_moons():
    data = two_moons(4000, seed=1000)
    mean, std = data.mean(axis=0), data.std(axis=0)
    prior = Diffusion((2,), MLP(64, 2, jnp.float32), sampler="heun", num_sampling_steps=40)
    num_steps = 600
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, num_steps))

    @jax.jit
    def step(params, state, z, key):
        def mean_loss(params):
            return prior.apply({"params": params}, z, key, method="loss")[0].mean()

        updates, state = optimizer.update(jax.grad(mean_loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = initial_params(prior)
    state = optimizer.init(params)
    for i, key in enumerate(split(num_steps)):
        params, state = step(params, state, (two_moons(256, seed=i) - mean) / std, key)

    held_out = (two_moons(4000, seed=1001) - mean) / std
    bounds = log_prob(prior, params, held_out)
    # The Gaussian is fitted to the points that it is evaluated on.
    _, log_det = np.linalg.slogdet(2.0 * np.pi * np.e * np.cov(held_out.T, bias=True))
    standard_error = bounds.std() / math.sqrt(len(bounds))
    assert bounds.mean() > -0.5 * log_det + 0.3 + 4.0 * standard_error

    samples = prior.apply({"params": params}, jax.random.key(0), 2000, method="sample")
    data = (data - mean) / std
    gaussian = np.random.default_rng(0).multivariate_normal(np.zeros(2), np.cov(data.T), 2000)
    held_out_distance, sample_distance, gaussian_distance = (
        np.median(scipy.spatial.cKDTree(data).query(points)[0])
        for points in (held_out, samples, gaussian)
    )
    assert 2.0 * held_out_distance < gaussian_distance
    # Halfway or nearer, as a ratio.
    assert sample_distance < math.sqrt(held_out_distance * gaussian_distance)
    np.testing.assert_allclose(samples.mean(axis=0), np.zeros(2), atol=0.15)
    np.testing.assert_allclose(np.cov(samples.T), np.cov(data.T), atol=0.15)
