"""Tests of vae_jax/objectives.py."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp

from vae_jax import likelihoods, objectives
from vae_jax.distributions import DiagonalGaussian, standard_normal_log_prob
from vae_jax.priors import Prior, Standardised, StandardNormal
from vae_jax.priors.diffusion import Diffusion
from vae_jax.priors.ex_post_mixture import FullGaussianMixture
from vae_jax.priors.flow import Flow
from vae_jax.priors.mixture import GaussianMixture

# A linear Gaussian model: z ~ N(0, I), x ~ N(W z + b, s^2 I). With orthogonal columns of W the
# posterior is diagonal: precision 1 + |w_d|^2 / s^2, mean W^T (x - b) / s^2 / precision.
WEIGHTS = np.array([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]])
BIAS = np.array([0.1, -0.2, 0.3, 0.0])
NOISE_STD = 0.7
IMAGES = np.array([[1.0, 0.4, -0.3, -1.2], [0.1, -0.2, 0.3, 0.0], [-2.0, 0.5, 0.5, 2.0]])
PRECISION = 1 + (WEIGHTS**2).sum(axis=0) / NOISE_STD**2
POSTERIOR_MEANS = (IMAGES - BIAS) @ WEIGHTS / NOISE_STD**2 / PRECISION
LOG_EVIDENCE = scipy.stats.multivariate_normal.logpdf(
    IMAGES, BIAS, WEIGHTS @ WEIGHTS.T + NOISE_STD**2 * np.eye(4)
)
# Another posterior, and its divergence from the true one, nats per image.
OTHER_MEANS, OTHER_STD = POSTERIOR_MEANS + np.array([0.3, -0.2]), np.array([0.6, 0.9])
OTHER_KL = 0.5 * (
    PRECISION * (OTHER_STD**2 + (OTHER_MEANS - POSTERIOR_MEANS) ** 2)
    - 1
    - np.log(PRECISION * OTHER_STD**2)
).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """N(outputs, NOISE_STD^2)."""

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        elementwise = jax.scipy.stats.norm.logpdf(x, outputs, NOISE_STD)
        return elementwise.reshape(len(x), -1).sum(axis=1)


def as_images(x) -> jax.Array:
    return jnp.asarray(x, jnp.float32).reshape(-1, 2, 2, 1)


def decode(z: jax.Array) -> jax.Array:
    return as_images(z @ WEIGHTS.T + BIAS)


def posterior_of_image(image: int, num: int, mean=POSTERIOR_MEANS, std=PRECISION**-0.5):
    """(q(z | x), x), `num` times; by default the true posterior."""
    rows = np.ones((num, 1))
    q = DiagonalGaussian(
        jnp.asarray(rows * mean[image], jnp.float32), jnp.asarray(rows * np.log(std), jnp.float32)
    )
    return q, as_images(rows * IMAGES[image])


def elbo_draws(q: DiagonalGaussian, x: jax.Array, seed: int = 0) -> np.ndarray:
    z = q.reparameterise(jax.random.normal(jax.random.key(seed), q.mean.shape))
    log_prior = standard_normal_log_prob(z)
    terms = objectives.compute_elbo_terms(LinearGaussian(), q, z, log_prior, decode(z), x)
    return np.float64(terms.elbo)


def log_weight_draws(q: DiagonalGaussian, x: jax.Array, seed: int = 0) -> np.ndarray:
    z = q.reparameterise(jax.random.normal(jax.random.key(seed), q.mean.shape))
    log_prior = standard_normal_log_prob(z)
    log_weights = objectives.compute_log_weights(LinearGaussian(), q, z, log_prior, decode(z), x)
    return np.float64(log_weights)


def random_terms(latent_shape: tuple[int, ...], learned: bool = False) -> objectives.ElboTerms:
    """Returns terms of a batch of 6, with a learned prior or with N(0, I)."""
    rng = np.random.default_rng(0)
    return objectives.ElboTerms(
        distortion=jnp.asarray(rng.normal(50, 10, 6), jnp.float32),
        rate_per_dim=jnp.asarray(rng.exponential(1.0, (6, *latent_shape)), jnp.float32),
        log_prior_ratio=jnp.asarray(rng.normal(0, 2, 6) if learned else np.zeros(6), jnp.float32),
    )


# The bound


@pytest.mark.parametrize("image", range(len(IMAGES)))
def test_with_the_true_posterior_every_z_weighs_the_evidence(image):
    q, x = posterior_of_image(image, num=100)
    noise = 3 * np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    z = q.reparameterise(noise)
    log_prior = standard_normal_log_prob(z)
    log_weights = objectives.compute_log_weights(LinearGaussian(), q, z, log_prior, decode(z), x)
    np.testing.assert_allclose(log_weights, np.full(100, LOG_EVIDENCE[image]), atol=1e-4)


@pytest.mark.parametrize("image", range(len(IMAGES)))
def test_elbo_falls_short_of_the_evidence_by_the_divergence_of_the_posterior(image):
    num_draws = 5000
    for posterior, gap in [({}, 0.0), ({"mean": OTHER_MEANS, "std": OTHER_STD}, OTHER_KL[image])]:
        for draws in (elbo_draws, log_weight_draws):
            values = draws(*posterior_of_image(image, num_draws, **posterior))
            # The weights of the true posterior are constant up to rounding.
            tolerance = 4 * values.std(ddof=1) / np.sqrt(num_draws) + 1e-5
            assert abs(values.mean() - (LOG_EVIDENCE[image] - gap)) < tolerance
    assert OTHER_KL[image] > 0.1


@pytest.mark.parametrize("learned", [False, True])
def test_elbo_is_minus_distortion_minus_the_summed_rate(learned):
    terms = random_terms((2, 2, 3), learned)
    rate = np.float64(terms.rate_per_dim).reshape(6, -1).sum(axis=1) - terms.log_prior_ratio
    np.testing.assert_allclose(terms.rate, rate, rtol=1e-6)
    np.testing.assert_allclose(terms.elbo, -np.float64(terms.distortion) - rate, rtol=1e-6)


@pytest.mark.parametrize("name", likelihoods.names())
def test_terms_of_an_image_do_not_depend_on_the_others(name):
    likelihood = likelihoods.create_likelihood(name, num_channels=1, num_mixtures=2)
    rng = np.random.default_rng(0)
    arrays = {
        "mean": rng.normal(size=(3, 5)),
        "log_std": rng.normal(size=(3, 5)),
        "z": rng.normal(size=(3, 5)),
        "log_prior": rng.normal(size=3),
        "outputs": rng.normal(size=(3, 2, 2, likelihood.num_outputs)),
        "x": rng.integers(0, 256, (3, 2, 2, 1)) / 255,
    }

    @jax.jit
    def compute(mean, log_std, z, log_prior, outputs, x):
        q = DiagonalGaussian(mean, log_std)
        terms = objectives.compute_elbo_terms(likelihood, q, z, log_prior, outputs, x)
        log_weights = objectives.compute_log_weights(likelihood, q, z, log_prior, outputs, x)
        iw_elbo = objectives.compute_iw_elbo(jnp.stack([log_weights, terms.elbo]))
        return terms.distortion, terms.rate_per_dim, terms.rate, terms.elbo, log_weights, iw_elbo

    before = compute(**{k: v.astype(np.float32) for k, v in arrays.items()})
    for key, spoil in [("mean", 3.0), ("outputs", -2.0), (None, np.nan)]:
        spoilt = {k: v.astype(np.float32) for k, v in arrays.items()}
        for name_of_array in [key] if key else arrays:
            spoilt[name_of_array][[0, 2]] = spoil
        after = compute(**spoilt)
        for a, b in zip(before, after, strict=True):
            assert jnp.isfinite(a).all()
            np.testing.assert_array_equal(a[1], b[1])
    assert all(jnp.isnan(b[0]).any() for b in after)  # the last ones were NaN


# The bound with other priors

NUM_DRAWS = 10_000
PRIOR_MEAN, PRIOR_STD = np.array([1.5, -1.0]), np.array([0.6, 1.7])


class Shift(nn.Module):
    """Makes a diffusion N(mean, I): then v = alpha noise - sigma z has the mean -sigma mean.

    z_t = alpha z + sigma noise, so E[z | z_t] = mean + alpha (z_t - alpha mean) and
    E[noise | z_t] = sigma (z_t - alpha mean).
    """

    mean: tuple[float, ...]

    def __call__(self, z, gamma):
        sigma = jnp.sqrt(jax.nn.sigmoid(gamma))[:, None]
        return jnp.broadcast_to(-sigma * jnp.asarray(self.mean), z.shape)


def standardised(base, **params) -> tuple[Prior, dict]:
    """Returns a prior that is N(PRIOR_MEAN, PRIOR_STD^2) if `base` is N(0, I)."""
    prior = Standardised((2,), base)
    params = {"base": params} if params else {}
    return prior, {**params, "mean": jnp.asarray(PRIOR_MEAN), "std": jnp.asarray(PRIOR_STD)}


def one_component() -> tuple[Prior, dict]:
    params = {"means": PRIOR_MEAN[None], "log_stds": np.log(PRIOR_STD)[None], "logits": np.ones(1)}
    return GaussianMixture((2,), 1), jax.tree.map(jnp.float32, params)


def one_full_component() -> tuple[Prior, dict]:
    """Returns the same Gaussian, as a standardised component."""
    identity = {"means": jnp.zeros((1, 2)), "precision_cholesky": jnp.eye(2)[None]}
    return standardised(FullGaussianMixture((2,), 1), logits=jnp.zeros(1), **identity)


def initial_flow() -> tuple[Prior, dict]:
    flow = Flow((2,), num_couplings=2, width=8, num_blocks=1)
    return standardised(
        flow, **flow.init(jax.random.key(1), jnp.ones((1, 2)), method="log_prob")["params"]
    )


def shifted_diffusion(std=PRIOR_STD) -> tuple[Prior, dict]:
    """Returns N(PRIOR_MEAN, std^2); network and standardisation each shift a part of the mean."""
    prior = Standardised((2,), Diffusion((2,), Shift((0.5, -0.8))))
    params = prior.init(jax.random.key(1), jnp.ones((1, 2)), jax.random.key(0), method="loss")
    moments = {"mean": PRIOR_MEAN - std * np.array([0.5, -0.8]), "std": std}
    return prior, {**params["params"], **jax.tree.map(jnp.float32, moments)}


GAUSSIAN_PRIORS = {
    "standardised": lambda: standardised(StandardNormal((2,))),
    "mixture": one_component,
    "full_mixture": one_full_component,
    "flow": initial_flow,
    "diffusion": shifted_diffusion,
}
# The true posterior with a prior N(m, diag(s^2)) in place of N(0, I).
LEARNED_PRIOR_PRECISION = PRECISION - 1 + PRIOR_STD**-2.0
LEARNED_PRIOR_MEANS = (
    PRECISION * POSTERIOR_MEANS + PRIOR_MEAN / PRIOR_STD**2
) / LEARNED_PRIOR_PRECISION


def log_evidence(weights, means, stds) -> np.ndarray:
    """Returns log p(x) of all IMAGES if p(z) = sum_k w_k N(m_k, diag(s_k^2)), in closed form."""
    components = [
        np.log(w)
        + scipy.stats.multivariate_normal.logpdf(
            IMAGES, WEIGHTS @ m + BIAS, WEIGHTS * s**2 @ WEIGHTS.T + NOISE_STD**2 * np.eye(4)
        )
        for w, m, s in zip(weights, means, stds, strict=True)
    ]
    return logsumexp(components, axis=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(prior, method, params, *arguments):
    return prior.apply({"params": params}, *arguments, method=method)


def draw(prior, params, image, mean, std, num_draws=NUM_DRAWS):
    """Returns (posterior, training terms, evaluation terms, log-weights) at draws of one posterior.

    Training has one key for the batch, evaluation has one for each row.
    """
    q, x = posterior_of_image(image, num_draws, mean, std)
    z_key, prior_key = jax.random.split(jax.random.key(image))
    z = q.reparameterise(jax.random.normal(z_key, q.mean.shape))
    _, in_training = apply(prior, "loss", params, z, prior_key)
    evaluated = apply(prior, "log_prob", params, z, jax.random.split(prior_key, num_draws))
    terms = [
        objectives.compute_elbo_terms(LinearGaussian(), q, z, log_prior, decode(z), x)
        for log_prior in (in_training, evaluated)
    ]
    log_weights = objectives.compute_log_weights(LinearGaussian(), q, z, evaluated, decode(z), x)
    np.testing.assert_array_equal(objectives.compute_rate(q, z, evaluated), terms[1].rate)
    return q, *terms, np.float64(log_weights)


def assert_mean(values, expected, atol=1e-3):
    """Asserts that the mean of `values` is within 4 standard errors of `expected`."""
    values = np.float64(values)
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / np.sqrt(len(values)) + atol


def gaussian_kl(mean, std, other_mean, other_std) -> float:
    ratio = (std / other_std) ** 2
    shift = ((mean - other_mean) / other_std) ** 2
    return 0.5 * (ratio + shift - 1 - np.log(ratio)).sum()


@pytest.mark.parametrize("name", GAUSSIAN_PRIORS)
def test_rate_and_elbo_with_a_gaussian_prior_are_those_of_the_closed_form(name):
    prior, params = GAUSSIAN_PRIORS[name]()
    params = jax.tree.map(jnp.float32, params)
    evidence = log_evidence([1.0], [PRIOR_MEAN], [PRIOR_STD])
    for image in (0, 2):
        mean, std = OTHER_MEANS, OTHER_STD
        _, in_training, evaluated, log_weights = draw(prior, params, image, mean, std)
        rate = gaussian_kl(mean[image], std, PRIOR_MEAN, PRIOR_STD)
        gap = gaussian_kl(
            mean[image], std, LEARNED_PRIOR_MEANS[image], LEARNED_PRIOR_PRECISION**-0.5
        )
        assert gap > 0.1
        # That of a diffusion is the closed form up to terms of order exp(gamma_min) |z|^2.
        atol = 2e-3 if name == "diffusion" else 2e-4
        for terms in (in_training, evaluated):
            assert_mean(terms.rate, rate, atol)
            assert_mean(terms.elbo, evidence[image] - gap, atol)
        if prior.is_exact:
            assert_mean(log_weights, evidence[image] - gap, atol)
            np.testing.assert_allclose(in_training.rate, evaluated.rate, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in GAUSSIAN_PRIORS if n != "diffusion"])
def test_with_the_true_posterior_of_a_learned_prior_every_z_weighs_the_evidence(name):
    """So the importance-weighted bound is log p(x), whatever the number of samples."""
    prior, params = GAUSSIAN_PRIORS[name]()
    params = jax.tree.map(jnp.float32, params)
    evidence = log_evidence([1.0], [PRIOR_MEAN], [PRIOR_STD])
    for image in range(len(IMAGES)):
        *_, log_weights = draw(
            prior, params, image, LEARNED_PRIOR_MEANS, LEARNED_PRIOR_PRECISION**-0.5, num_draws=100
        )
        np.testing.assert_allclose(log_weights, evidence[image], atol=2e-4)
        bound = objectives.compute_iw_elbo(jnp.float32(log_weights.reshape(10, 10)))
        np.testing.assert_allclose(bound, evidence[image], atol=2e-4)
    assert np.abs(evidence - LOG_EVIDENCE).min() > 0.1  # N(0, I) would give other values


def perturbed_mixture() -> tuple[Prior, dict, np.ndarray]:
    rng = np.random.default_rng(2)
    params = {
        "logits": rng.normal(size=3),
        "means": rng.normal(0, 2, (3, 2)),
        "log_stds": rng.normal(-0.5, 0.3, (3, 2)),
    }
    params = jax.tree.map(np.float32, params)
    weights = np.exp(params["logits"] - logsumexp(params["logits"]))
    evidence = log_evidence(weights, params["means"], np.exp(params["log_stds"]))
    return GaussianMixture((2,), 3), params, evidence


def perturbed_flow() -> tuple[Prior, dict, np.ndarray]:
    """Returns a flow and its evidence by quadrature over the plane."""
    prior, params = initial_flow()
    keys = iter(jax.random.split(jax.random.key(4), 99))
    params["base"] = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params["base"]
    )
    params = jax.tree.map(jnp.float32, params)
    axis = np.linspace(-14, 14, 421)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    log_prior = np.float64(apply(prior, "log_prob", params, grid))
    log_cell = 2 * np.log(axis[1] - axis[0])
    np.testing.assert_allclose(logsumexp(log_prior) + log_cell, 0.0, atol=1e-3)
    means = np.float64(grid) @ WEIGHTS.T + BIAS
    log_likelihoods = [scipy.stats.norm.logpdf(x, means, NOISE_STD).sum(axis=1) for x in IMAGES]
    return prior, params, logsumexp(log_prior + np.stack(log_likelihoods), axis=1) + log_cell


@pytest.mark.parametrize("make", [perturbed_mixture, perturbed_flow])
def test_elbo_with_a_perturbed_prior_stays_below_the_evidence_that_more_samples_reach(make):
    prior, params, evidence = make()
    for image in range(len(IMAGES)):
        # Wider than the true posterior, which is no Gaussian.
        std = 1.5 * PRECISION**-0.5
        _, in_training, evaluated, log_weights = draw(prior, params, image, POSTERIOR_MEANS, std)
        for values in map(np.float64, (in_training.elbo, evaluated.elbo, log_weights)):
            error = values.std(ddof=1) / np.sqrt(NUM_DRAWS)
            assert values.mean() < evidence[image] - 4 * error
        bound = objectives.compute_iw_elbo(jnp.float32(log_weights.reshape(1000, -1)))
        assert_mean(bound, evidence[image], atol=0.02)
    assert np.abs(evidence - LOG_EVIDENCE).min() > 0.1


@pytest.mark.parametrize("kl_weight", [0.3, 1.0])
def test_loss_weighs_the_rate_of_the_learned_prior(kl_weight):
    terms = random_terms((4,), learned=True)
    rate = np.float64(terms.rate_per_dim).sum(axis=1) - np.float64(terms.log_prior_ratio)
    expected = 0.5 * np.float64(terms.distortion).mean() + kl_weight * rate.mean()
    loss = objectives.compute_loss(terms, kl_weight, free_bits=0.0, distortion_weight=0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


# The loss


@pytest.mark.parametrize("latent_shape", [(8,), (2, 2, 3)])
@pytest.mark.parametrize("free_bits", [0.0, 0.5, 1.0, 100.0])
def test_free_bits_are_of_the_batch_mean_of_each_dimension(latent_shape, free_bits):
    rates = random_terms(latent_shape).rate_per_dim
    expected = np.maximum(np.float64(rates).mean(axis=0), free_bits).sum()
    actual = objectives.apply_free_bits(rates, free_bits)
    assert actual.shape == ()
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_free_bits_let_single_images_use_a_dimension_less():
    # The mean is 1: raising each image to 1 instead would make it (1 + 2) / 2.
    assert objectives.apply_free_bits(jnp.asarray([[0.0], [2.0]]), free_bits=1.0) == 1.0


def test_free_bits_cost_no_gradient():
    rates = jnp.asarray([[0.1, 3.0], [0.2, 1.0], [0.0, 2.0]])
    gradient = jax.grad(objectives.apply_free_bits)(rates, 0.5)
    np.testing.assert_allclose(gradient, [[0, 1 / 3]] * 3, rtol=1e-6)


@pytest.mark.parametrize("kl_weight", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("free_bits", [0.0, 1.2])
def test_loss_is_the_mean_distortion_and_the_weighted_rate_after_free_bits(kl_weight, free_bits):
    terms = random_terms((4,))
    rates = np.float64(terms.rate_per_dim).mean(axis=0)
    expected = np.float64(terms.distortion).mean() + kl_weight * np.maximum(rates, free_bits).sum()
    loss = objectives.compute_loss(terms, kl_weight, free_bits)
    assert loss.shape == ()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # Unlike the loss the bound carries neither; where both are neutral they agree.
    is_plain = kl_weight == 1 and free_bits == 0
    assert np.isclose(loss, -terms.elbo.mean(), rtol=1e-5) == is_plain


@pytest.mark.parametrize("free_bits", [0.0, 1.2])
def test_averaged_distortion_is_a_kl_weight_times_the_number_of_values(free_bits):
    """D / n + w R is (D + n w R) / n, and so are its gradients."""
    num_values, kl_weight, terms = 784, 0.3, random_terms((4,))
    mean = jax.value_and_grad(objectives.compute_loss)
    mean, mean_gradient = mean(terms, kl_weight, free_bits, 1.0 / num_values)
    other, other_gradient = jax.value_and_grad(objectives.compute_loss)(
        terms, num_values * kl_weight, free_bits
    )
    np.testing.assert_allclose(mean, other / num_values, rtol=1e-6)
    expected = np.float64(terms.distortion).mean() / num_values
    rate = np.maximum(np.float64(terms.rate_per_dim).mean(axis=0), free_bits).sum()
    np.testing.assert_allclose(mean, expected + kl_weight * rate, rtol=1e-6)
    for actual, sum_gradient in zip(
        jax.tree.leaves(mean_gradient), jax.tree.leaves(other_gradient), strict=True
    ):
        np.testing.assert_allclose(actual, sum_gradient / num_values, rtol=1e-6)
        assert np.any(actual != 0)


# The importance-weighted bound


def test_iw_elbo_rises_with_the_samples_from_the_elbo_to_the_evidence():
    num_draws, counts = 8192, [1, 16, 256]
    q, x = posterior_of_image(0, num_draws, OTHER_MEANS, OTHER_STD)
    log_weights = log_weight_draws(q, x)
    bounds, standard_errors = [], []
    for count in counts:
        values = objectives.compute_iw_elbo(jnp.float32(log_weights.reshape(count, -1)))
        values = np.float64(values)
        bounds.append(values.mean())
        standard_errors.append(values.std(ddof=1) / np.sqrt(len(values)))
    assert bounds == sorted(bounds)
    assert abs(bounds[0] - (LOG_EVIDENCE[0] - OTHER_KL[0])) < 4 * standard_errors[0]
    for bound, standard_error in zip(bounds, standard_errors, strict=True):
        assert bound < LOG_EVIDENCE[0] + 4 * standard_error
    assert LOG_EVIDENCE[0] - bounds[-1] < 0.05 * OTHER_KL[0]


def test_iw_elbo_of_one_sample_is_its_log_weight():
    log_weights = jnp.asarray([[-3.0, 0.5, -1e4]])
    np.testing.assert_array_equal(objectives.compute_iw_elbo(log_weights), log_weights[0])


def test_iw_elbo_averages_the_weights_of_one_image():
    # Each image has one good sample of two: log((1 + e^-40) / 2). Weights averaged over the batch
    # first would give 0 - 20 for both samples.
    log_weights = jnp.asarray([[0.0, -40.0], [-40.0, 0.0]])
    np.testing.assert_allclose(objectives.compute_iw_elbo(log_weights), [-np.log(2)] * 2, rtol=1e-6)


def test_iw_elbo_of_very_unlikely_images():
    log_weights = np.random.default_rng(0).normal(-5000, 10, (6, 4)).astype(np.float32)
    expected = logsumexp(np.float64(log_weights), axis=0) - np.log(6)
    np.testing.assert_allclose(objectives.compute_iw_elbo(log_weights), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [8.0, 3.17, 0.01])
def test_bits_per_dim_inverts_the_nats_of_so_many_bits(bits):
    image_shape = (28, 28, 3)
    elbo = -np.prod(image_shape) * bits * np.log(2)
    actual = objectives.bits_per_dim(elbo, image_shape)
    assert isinstance(actual, float)
    np.testing.assert_allclose(actual, bits, rtol=1e-12)  # the bound is a float64 mean
