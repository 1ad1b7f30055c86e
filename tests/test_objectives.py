"""Tests of vae_jax/objectives.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp

from vae_jax import likelihoods, objectives
from vae_jax.distributions import DiagonalGaussian

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
    return np.float64(objectives.compute_elbo_terms(LinearGaussian(), q, decode(z), x).elbo)


def log_weight_draws(q: DiagonalGaussian, x: jax.Array, seed: int = 0) -> np.ndarray:
    z = q.reparameterise(jax.random.normal(jax.random.key(seed), q.mean.shape))
    log_weights = objectives.compute_log_weights(LinearGaussian(), q, z, decode(z), x)
    return np.float64(log_weights)


def random_terms(latent_shape: tuple[int, ...]) -> objectives.ElboTerms:
    rng = np.random.default_rng(0)
    return objectives.ElboTerms(
        distortion=jnp.asarray(rng.normal(50, 10, 6), jnp.float32),
        rate_per_dim=jnp.asarray(rng.exponential(1.0, (6, *latent_shape)), jnp.float32),
    )


# The bound


@pytest.mark.parametrize("image", range(len(IMAGES)))
def test_with_the_true_posterior_every_z_weighs_the_evidence(image):
    q, x = posterior_of_image(image, num=100)
    noise = 3 * np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    z = q.reparameterise(noise)
    log_weights = objectives.compute_log_weights(LinearGaussian(), q, z, decode(z), x)
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


def test_elbo_is_minus_distortion_minus_the_summed_rate():
    terms = random_terms((2, 2, 3))
    rate = np.float64(terms.rate_per_dim).reshape(6, -1).sum(axis=1)
    np.testing.assert_allclose(terms.rate, rate, rtol=1e-6)
    np.testing.assert_allclose(terms.elbo, -np.float64(terms.distortion) - rate, rtol=1e-6)


@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_terms_of_an_image_do_not_depend_on_the_others(name):
    likelihood = likelihoods.create_likelihood(name, num_channels=1, num_mixtures=2)
    rng = np.random.default_rng(0)
    arrays = {
        "mean": rng.normal(size=(3, 5)),
        "log_std": rng.normal(size=(3, 5)),
        "z": rng.normal(size=(3, 5)),
        "outputs": rng.normal(size=(3, 2, 2, likelihood.num_outputs)),
        "x": rng.integers(0, 256, (3, 2, 2, 1)) / 255,
    }

    @jax.jit
    def compute(mean, log_std, z, outputs, x):
        q = DiagonalGaussian(mean, log_std)
        terms = objectives.compute_elbo_terms(likelihood, q, outputs, x)
        log_weights = objectives.compute_log_weights(likelihood, q, z, outputs, x)
        iw_elbo = objectives.compute_iw_elbo(jnp.stack([log_weights, terms.elbo]))
        return terms.distortion, terms.rate_per_dim, terms.elbo, log_weights, iw_elbo

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
    for actual, of_sum in zip(
        jax.tree.leaves(mean_gradient), jax.tree.leaves(other_gradient), strict=True
    ):
        np.testing.assert_allclose(actual, of_sum / num_values, rtol=1e-6)
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
