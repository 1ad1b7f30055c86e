"""Tests of vae_jax/priors/mixture.py and vae_jax/priors/ex_post_mixture.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp, softmax

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.priors.diagonal_mixture import mixture_log_prob
from vae_jax.priors.ex_post_mixture import FullGaussianMixture, fit_full_mixture
from vae_jax.priors.mixture import GaussianMixture

LATENT_SHAPES = [(5,), (2, 3, 4)]
NUM_COMPONENTS, NUM_SAMPLES = 4, 20_000


def log_prob(prior, params, z):
    return jax.jit(lambda params, z: prior.apply({"params": params}, z, method="log_prob"))(
        params, z
    )


def sample(prior, params, num_samples=NUM_SAMPLES, temperature=1.0, seed=0):
    draw = jax.jit(
        lambda params: prior.apply(
            {"params": params}, jax.random.key(seed), num_samples, temperature, method="sample"
        )
    )
    return np.float64(draw(params))


def init_params(prior):
    z = jnp.zeros((1, *prior.latent_shape))
    init = jax.jit(lambda key: prior.init(key, z, method="log_prob"))
    return init(jax.random.key(0))["params"]


def diagonal_params(dimension, std=1.0, spread=1.0, centre=0.0, seed=0) -> dict:
    """Random parameters of GaussianMixture with standard deviations near `std`."""
    rng = np.random.default_rng(seed)
    shape = (NUM_COMPONENTS, dimension)
    params = {
        "logits": rng.normal(size=NUM_COMPONENTS),
        "means": centre + spread * rng.normal(size=shape),
        "log_stds": np.log(std) + 0.3 * rng.normal(size=shape),
    }
    return {name: values.astype(np.float32) for name, values in params.items()}


def full_params(dimension, seed=0) -> dict:
    """Random parameters of FullGaussianMixture."""
    rng = np.random.default_rng(seed)
    factors = np.triu(rng.normal(size=(NUM_COMPONENTS, dimension, dimension)), 1)
    factors += np.eye(dimension) * rng.uniform(0.5, 2.0, (NUM_COMPONENTS, 1, dimension))
    params = {
        "logits": rng.normal(size=NUM_COMPONENTS),
        "means": 2.0 * rng.normal(size=(NUM_COMPONENTS, dimension)),
        "precision_cholesky": factors,
    }
    return {name: values.astype(np.float32) for name, values in params.items()}


def double(params) -> dict:
    return {name: np.float64(values) for name, values in params.items()}


def as_full(params) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights [K], means [K, D], covariances [K, D, D]) of either mixture."""
    params = double(params)
    if "log_stds" in params:
        covariances = [np.diag(variances) for variances in np.exp(2.0 * params["log_stds"])]
    else:
        covariances = [np.linalg.inv(p @ p.T) for p in params["precision_cholesky"]]
    return softmax(params["logits"]), params["means"], np.stack(covariances)


def scipy_log_prob(params, z) -> np.ndarray:
    """log-density of the rows z [B, D] in float64."""
    log_probs = [
        np.log(weight) + scipy.stats.multivariate_normal(mean, covariance).logpdf(z)
        for weight, mean, covariance in zip(*as_full(params), strict=True)
    ]
    return logsumexp(log_probs, axis=0)


def draw_from(params, num_samples, seed=1) -> np.ndarray:
    """Samples in NumPy, float32 [num_samples, D]."""
    rng = np.random.default_rng(seed)
    weights, means, covariances = as_full(params)
    chosen = rng.choice(len(weights), num_samples, p=weights)
    factors = np.linalg.cholesky(covariances)[chosen]
    noise = rng.normal(size=(num_samples, means.shape[1], 1))
    return (means[chosen] + (factors @ noise)[..., 0]).astype(np.float32)


# Densities


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
@pytest.mark.parametrize("prior_class", [GaussianMixture, FullGaussianMixture])
def test_log_prob_is_scipys(prior_class, latent_shape):
    dimension = math.prod(latent_shape)
    make = diagonal_params if prior_class is GaussianMixture else full_params
    prior, params = prior_class(latent_shape, num_components=NUM_COMPONENTS), make(dimension)
    wide = np.random.default_rng(2).normal(size=(20, dimension)).astype(np.float32)
    z = np.concatenate([draw_from(params, 20), wide])
    actual = log_prob(prior, params, z.reshape(-1, *latent_shape))
    assert (actual.shape, actual.dtype) == ((40,), jnp.float32)
    np.testing.assert_allclose(actual, scipy_log_prob(params, z), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("std", "spread", "centre"),
    [
        (1.0, 1.0, 0.0),
        (0.01, 1.0, 0.0),
        (0.01, 1.0, 10.0),
        (0.001, 1.0, 0.0),
        # Overlapping, so that not only the likeliest component counts, and far from 0.
        (1.0, 0.1, 100.0),
        (0.01, 0.003, 1.0),
    ],
)
def test_log_prob_is_accurate_for_small_stds_and_far_means(std, spread, centre):
    dimension = 64
    params = diagonal_params(dimension, std, spread, centre)
    z = draw_from(params, 50)
    log_weights = jax.nn.log_softmax(params["logits"])
    arguments = (log_weights, params["means"], params["log_stds"])

    def total(z):
        log_probs = mixture_log_prob(z, *arguments)
        return log_probs.sum(), log_probs

    gradient, actual = jax.jit(jax.grad(total, has_aux=True))(z)
    # 64 squares near 1 and as many logarithms up to 7, each with seven digits.
    np.testing.assert_allclose(actual, scipy_log_prob(params, z), rtol=0.0, atol=1e-4)

    weights, means, covariances = as_full(params)
    deviations = means - np.float64(z)[:, None]
    scaled = deviations / np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    log_joint = np.log(weights) - 0.5 * (scaled**2).sum(axis=2) - params["log_stds"].sum(axis=1)
    responsibilities = softmax(log_joint, axis=1)[..., None]
    expected = (responsibilities * scaled * np.exp(-double(params)["log_stds"])).sum(axis=1)
    np.testing.assert_allclose(gradient * std, expected * std, atol=2e-4)


def test_gradients_of_the_parameters_agree_with_differences():
    prior, params = GaussianMixture((3,), num_components=NUM_COMPONENTS), diagonal_params(3)
    z = draw_from(params, 10)
    gradient = jax.jit(jax.grad(lambda p: prior.apply({"params": p}, z, method="log_prob").sum()))(
        params
    )
    direction, step = double(diagonal_params(3, seed=5)), 1e-4
    moved = [
        {name: double(params)[name] + sign * step * direction[name] for name in params}
        for sign in (1, -1)
    ]
    difference = np.subtract(*(scipy_log_prob(m, z).sum() for m in moved)) / (2 * step)
    actual = sum((np.float64(gradient[name]) * direction[name]).sum() for name in params)
    np.testing.assert_allclose(actual, difference, rtol=1e-4)


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_one_standard_normal_component_is_the_standard_normal(latent_shape):
    z = 3.0 * np.random.default_rng(0).normal(size=(50, *latent_shape)).astype(np.float32)
    shape = (1, math.prod(latent_shape))
    params = {"logits": np.full(1, 0.7), "means": np.zeros(shape), "log_stds": np.zeros(shape)}
    expected = standard_normal_log_prob(z)
    actual = log_prob(GaussianMixture(latent_shape, num_components=1), params, z)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    full = FullGaussianMixture(latent_shape)
    np.testing.assert_allclose(log_prob(full, init_params(full), z), expected, rtol=1e-6)


def test_initial_components_differ():
    params = init_params(GaussianMixture((2, 2, 3), num_components=6))
    assert {name: p.shape for name, p in params.items()} == {
        "logits": (6,),
        "means": (6, 12),
        "log_stds": (6, 12),
    }
    assert {p.dtype for p in params.values()} == {jnp.dtype("float32")}
    assert len(np.unique(params["means"])) == 72


def test_entries_below_the_diagonal_are_ignored():
    prior, params = FullGaussianMixture((5,), num_components=NUM_COMPONENTS), full_params(5)
    z = draw_from(params, 10)
    below = params["precision_cholesky"] + np.tril(np.ones((5, 5), np.float32), -1)
    spoilt = params | {"precision_cholesky": below}
    np.testing.assert_array_equal(log_prob(prior, spoilt, z), log_prob(prior, params, z))
    np.testing.assert_array_equal(sample(prior, spoilt, 10), sample(prior, params, 10))


@pytest.mark.parametrize("prior_class", [GaussianMixture, FullGaussianMixture])
def test_rows_do_not_see_each_other(prior_class):
    make = diagonal_params if prior_class is GaussianMixture else full_params
    prior, params = prior_class((5,), num_components=NUM_COMPONENTS), make(5)
    z = draw_from(params, 3)
    spoilt = np.stack([z[0], np.full(5, np.nan, np.float32), np.full(5, np.inf, np.float32)])
    assert log_prob(prior, params, spoilt)[0] == log_prob(prior, params, z)[0]


def test_loss_is_the_negative_log_density():
    prior, params = GaussianMixture((5,), num_components=NUM_COMPONENTS), diagonal_params(5)
    z = draw_from(params, 3)
    key = jax.random.key(0)
    loss, log_probs = jax.jit(
        lambda params: prior.apply({"params": params}, z, key, method="loss")
    )(params)
    assert prior.is_exact
    np.testing.assert_array_equal(loss, -log_probs)
    np.testing.assert_allclose(log_probs, log_prob(prior, params, z), rtol=1e-6)


# Samples


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("prior_class", [GaussianMixture, FullGaussianMixture])
def test_samples_have_the_mixtures_moments(prior_class, temperature):
    make = diagonal_params if prior_class is GaussianMixture else full_params
    prior, params = prior_class((3,), num_components=NUM_COMPONENTS), make(3)
    z = sample(prior, params, temperature=temperature)
    weights, means, covariances = as_full(params)
    mean = weights @ means
    outer = np.einsum("ki,kj->kij", means - mean, means - mean)
    covariance = np.einsum("k,kij->ij", weights, temperature**2 * covariances + outer)
    standard_errors = np.sqrt(np.diag(covariance) / NUM_SAMPLES)
    assert (np.abs(z.mean(axis=0) - mean) < 4 * standard_errors).all()
    products = np.einsum("ni,nj->nij", z - mean, z - mean)
    standard_errors = products.std(axis=0) / np.sqrt(NUM_SAMPLES)
    assert (np.abs(products.mean(axis=0) - covariance) < 4 * standard_errors).all()


@pytest.mark.parametrize("prior_class", [GaussianMixture, FullGaussianMixture])
def test_temperature_zero_gives_means_as_often_as_their_weights(prior_class):
    latent_shape = (1, 2, 2)
    make = diagonal_params if prior_class is GaussianMixture else full_params
    prior, params = prior_class(latent_shape, num_components=NUM_COMPONENTS), make(4)
    z = sample(prior, params, temperature=0.0)
    assert z.shape == (NUM_SAMPLES, *latent_shape)
    matches = (z.reshape(-1, 1, 4) == params["means"]).all(axis=2)
    assert (matches.sum(axis=1) == 1).all()
    expected = NUM_SAMPLES * as_full(params)[0]
    assert scipy.stats.chisquare(matches.sum(axis=0), expected).pvalue > 1e-3


@pytest.mark.parametrize("prior_class", [GaussianMixture, FullGaussianMixture])
def test_temperature_scales_the_distance_to_the_mean(prior_class):
    make = diagonal_params if prior_class is GaussianMixture else full_params
    prior, params = prior_class((5,), num_components=NUM_COMPONENTS), make(5)
    means, cold, warm = (sample(prior, params, 50, t) for t in (0.0, 1.0, 2.5))
    np.testing.assert_allclose(warm - means, 2.5 * (cold - means), atol=1e-5)
    assert (sample(prior, params, 50, seed=1) != cold).all()


# Initial parameters


def start(z, num_components, seed) -> dict:
    """Returns the parameters with which a diagonal mixture starts from latents."""
    initial = {"logits": np.zeros(num_components)}
    return GaussianMixture.start_from_data(initial, None, z, seed)


@pytest.mark.parametrize("latent_shape", [(3,), (2, 2, 3)])
def test_components_begin_as_a_kernel_density_of_latents(latent_shape):
    rng = np.random.default_rng(0)
    z = (5.0 + rng.normal(size=(500, *latent_shape))).astype(np.float32)
    z[..., 0] = 0.25  # never varies
    params = start(z, 64, seed=1)
    prior = GaussianMixture(latent_shape, num_components=64)
    expected = jax.eval_shape(lambda: init_params(prior))
    assert {name: (p.shape, p.dtype) for name, p in params.items()} == {
        name: (p.shape, p.dtype) for name, p in expected.items()
    }
    rows = z.reshape(500, -1)
    matches = (params["means"][:, None] == rows).all(axis=2)
    assert (matches.sum(axis=1) == 1).all() and matches.any(axis=0).sum() == 64
    # SciPy's density of all latents has a bandwidth of (their number)^(-1 / (D + 4)), too.
    varying = rows.std(axis=0) > 0
    factor = scipy.stats.gaussian_kde(rows[:64].T + rng.normal(size=(rows.shape[1], 64))).factor
    stds = rows[:, varying].astype(np.float64).std(axis=0)
    np.testing.assert_allclose(
        np.exp(params["log_stds"][:, varying]), np.tile(factor * stds, (64, 1)), rtol=1e-5
    )
    assert np.isfinite(log_prob(prior, params, z[:5])).all()
    other = start(z, 64, seed=2)
    assert not np.array_equal(other["means"], params["means"])


def test_fewer_latents_than_components_are_all_used():
    z = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    params = start(z, 7, seed=1)
    _, counts = np.unique(params["means"], axis=0, return_counts=True)
    assert sorted(counts) == [2, 2, 3]


# Expectation maximisation


def planted_mixture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, means, covariances) of two Gaussians in the plane."""
    covariances = [[[1.0, 0.8], [0.8, 1.0]], [[0.5, -0.1], [-0.1, 0.2]]]
    return np.array([0.3, 0.7]), np.array([[-4.0, 0.0], [3.0, 1.0]]), np.array(covariances)


def planted_latents(num_samples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    weights, means, covariances = planted_mixture()
    chosen = rng.choice(2, num_samples, p=weights)
    noise = rng.normal(size=(num_samples, 2, 1))
    return means[chosen] + (np.linalg.cholesky(covariances)[chosen] @ noise)[..., 0]


@pytest.fixture(scope="module")
def fitted() -> dict:
    return fit_full_mixture(planted_latents(2000), 2, seed=0)


def test_fit_recovers_the_mixture(fitted):
    assert {p.dtype for p in fitted.values()} == {np.dtype("float32")}
    order = np.argsort(fitted["means"][:, 0])
    actual = [values[order] for values in as_full(fitted)]
    for recovered, planted in zip(actual, planted_mixture(), strict=True):
        np.testing.assert_allclose(recovered, planted, atol=0.15)  # four standard errors


def test_fit_is_scikit_learns():
    from sklearn.mixture import GaussianMixture as Reference

    z = draw_from(full_params(12), 400).reshape(-1, 2, 2, 3)
    flat = np.float64(z.reshape(-1, 12))
    params = fit_full_mixture(z, 3, seed=4)
    reference = Reference(3, reg_covar=1e-6, random_state=4).fit(flat)
    prior = FullGaussianMixture((2, 2, 3), num_components=3)
    expected = reference.score_samples(flat)
    np.testing.assert_allclose(log_prob(prior, params, z), expected, rtol=1e-5, atol=1e-3)


def test_fitted_density_integrates_to_one(fitted):
    edges = np.linspace(-12.0, 12.0, 401)
    x, y = np.meshgrid(edges, edges, indexing="ij")
    z = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    density = np.exp(np.float64(log_prob(FullGaussianMixture((2,), num_components=2), fitted, z)))
    # The trapezoidal rule is exact to rounding for a smooth function that vanishes at the border.
    assert abs(density.sum() * (edges[1] - edges[0]) ** 2 - 1.0) < 1e-5


def test_unconverged_fit_is_logged(monkeypatch, caplog):
    from sklearn import mixture

    patient = mixture.GaussianMixture
    monkeypatch.setattr(
        mixture, "GaussianMixture", lambda *args, **kw: patient(*args, **(kw | {"max_iter": 2}))
    )
    z = np.random.default_rng(0).normal(size=(300, 3))
    with caplog.at_level("WARNING", "vae_jax.priors.ex_post_mixture"):
        params = fit_full_mixture(z, 5, seed=0)  # pytest makes any warning of Python's an error
    assert caplog.messages == [
        "The mixture of 5 Gaussians has not converged in 2 iterations of EM."
    ]
    assert all(np.isfinite(p).all() for p in params.values())


@pytest.mark.parametrize(("num_latents", "num_components"), [(12, 1), (13, 14)])
def test_too_few_latents_are_an_error(num_latents, num_components):
    z = np.random.default_rng(0).normal(size=(num_latents, 2, 2, 3))
    message = f"{num_latents} latents of 12 dimensions.*more images.*fewer dimensions"
    with pytest.raises(ValueError, match=message):
        fit_full_mixture(z, num_components, seed=0)


def test_converged_fit_logs_nothing(caplog):
    fit_full_mixture(planted_latents(100), 1, seed=0)
    assert not caplog.messages


def test_equal_stds_that_are_constants_under_jit_give_the_same_density():
    """XLA's fusion of the one-hot products returned NaN for such constants."""
    rng = np.random.default_rng(0)
    z, means = (rng.normal(size=(n, 16)).astype(np.float32) for n in (256, 1000))
    log_weights, log_stds = np.full(1000, -np.log(1000.0)), np.full((1000, 16), -1.9)
    arguments = [jnp.asarray(a, jnp.float32) for a in (log_weights, means, log_stds)]
    jitted = jax.jit(lambda z: mixture_log_prob(z, *arguments))(z)
    np.testing.assert_allclose(jitted, mixture_log_prob(jnp.asarray(z), *arguments), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda z: mixture_log_prob(z, *arguments).sum()))(z)
    assert np.isfinite(gradient).all()
