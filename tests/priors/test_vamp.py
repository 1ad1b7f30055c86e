"""Tests of vae_jax/priors/vamp.py."""

import math

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, logsumexp

from tests.conftest import smooth_images
from vae_jax.distributions import DiagonalGaussian
from vae_jax.priors.vamp import VampPrior

IMAGE_SHAPE, NUM_COMPONENTS = (4, 4, 1), 6
LATENT_SHAPES = [(3,), (2, 2, 3)]


class SmallEncoder(nn.Module):
    latent_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        dimension = math.prod(self.latent_shape)
        h = nn.Dense(2 * dimension, name="head")(x.reshape(x.shape[0], -1))
        mean, log_std = jnp.split(h.reshape(-1, 2 * dimension), 2, axis=-1)
        shape = (-1, *self.latent_shape)
        return DiagonalGaussian(4.0 * mean.reshape(shape), log_std.reshape(shape) - 1.0)


class Parent(nn.Module):
    """Like the VAE: one encoder for the posteriors and for the prior."""

    latent_shape: tuple[int, ...]

    def setup(self):
        self.encoder = SmallEncoder(self.latent_shape)
        self.prior = VampPrior(
            self.latent_shape,
            image_shape=IMAGE_SHAPE,
            encoder=self.encoder,
            num_components=NUM_COMPONENTS,
        )

    def encode(self, x):
        return self.encoder(x)

    def log_prior(self, z):
        return self.prior.log_prob(z)

    def sample_prior(self, key, num_samples, temperature=1.0):
        return self.prior.sample(key, num_samples, temperature)

    def rate(self, x, noise):
        """log q(z | x) - log p(z), [B]."""
        q = self.encode(x)
        z = q.reparameterise(noise)
        return q.log_prob(z) - self.log_prior(z)


def init_params(latent_shape, method="log_prior"):
    arguments = {
        "encode": (jnp.zeros((1, *IMAGE_SHAPE)),),
        "log_prior": (jnp.zeros((1, *latent_shape)),),
        "sample_prior": (jax.random.key(1), 1),
        "rate": (jnp.zeros((1, *IMAGE_SHAPE)), jnp.zeros((1, *latent_shape))),
    }[method]
    parent = Parent(latent_shape)
    return jax.jit(lambda: parent.init(jax.random.key(0), *arguments, method=method))()["params"]


def apply(latent_shape, params, method, *arguments):
    parent = Parent(latent_shape)
    return jax.jit(lambda p: parent.apply({"params": p}, *arguments, method=method))(params)


def gradient_of(function, params):
    """Returns the gradient of the sum of a function of the parameters."""
    return jax.jit(jax.grad(lambda p: function(p).sum()))(params)


def posteriors(latent_shape, params) -> tuple[np.ndarray, np.ndarray]:
    """(means, standard deviations) of the encoder at the pseudo-inputs, float64 [K, D]."""
    images = expit(np.asarray(params["prior"]["pseudo_inputs"]))
    q = SmallEncoder(latent_shape).apply({"params": params["encoder"]}, images)
    return tuple(np.float64(a).reshape(NUM_COMPONENTS, -1) for a in (q.mean, q.std))


def start(images, num_components, seed=0) -> dict:
    """Returns the parameters with which the prior starts from images."""
    initial = {"pseudo_inputs": np.zeros(num_components)}
    return VampPrior.start_from_data(initial, images, None, seed)


@pytest.mark.parametrize("method", ["log_prior", "sample_prior", "rate"])
def test_the_encoders_parameters_appear_once_and_not_under_the_prior(method):
    params = init_params((3,), method)
    shapes = {k: p.shape for k, p in flax.traverse_util.flatten_dict(params, sep="/").items()}
    assert shapes == {
        "encoder/head/kernel": (16, 6),
        "encoder/head/bias": (6,),
        "prior/pseudo_inputs": (NUM_COMPONENTS, *IMAGE_SHAPE),
    }


def test_an_encoder_of_its_own_belongs_to_the_prior():
    prior = VampPrior((3,), IMAGE_SHAPE, SmallEncoder((3,)), num_components=2)
    shapes = jax.eval_shape(
        lambda: prior.init(jax.random.key(0), jnp.zeros((1, 3)), method="log_prob")
    )
    assert set(shapes["params"]) == {"encoder", "pseudo_inputs"}


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_log_prob_is_the_mean_of_the_posteriors_densities(latent_shape):
    params = init_params(latent_shape)
    means, stds = posteriors(latent_shape, params)
    wide = np.random.default_rng(0).normal(size=(20, means.shape[1]))
    z = np.concatenate([means + 0.5 * stds, wide]).astype(np.float32)
    elementwise = scipy.stats.norm.logpdf(np.float64(z)[:, None], means, stds)
    expected = logsumexp(elementwise.sum(axis=2), axis=1) - np.log(NUM_COMPONENTS)
    actual = apply(latent_shape, params, "log_prior", z.reshape(-1, *latent_shape))
    assert (actual.shape, actual.dtype) == ((NUM_COMPONENTS + 20,), jnp.float32)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("latent_shape", LATENT_SHAPES)
def test_temperature_zero_gives_the_posterior_means_equally_often(latent_shape):
    num_samples, params = 6000, init_params(latent_shape)
    z = apply(latent_shape, params, "sample_prior", jax.random.key(3), num_samples, 0.0)
    assert (z.shape, z.dtype) == ((num_samples, *latent_shape), jnp.float32)
    means, _ = posteriors(latent_shape, params)
    matches = np.abs(np.reshape(z, (num_samples, 1, -1)) - means).max(axis=2) < 1e-4
    assert (matches.sum(axis=1) == 1).all()
    assert scipy.stats.chisquare(matches.sum(axis=0)).pvalue > 1e-3


def test_samples_have_the_mixtures_moments_and_temperature_scales_them():
    num_samples, params, key = 20_000, init_params((3,)), jax.random.key(4)
    means, stds = posteriors((3,), params)
    cold, z, warm = (
        np.float64(apply((3,), params, "sample_prior", key, num_samples, t))
        for t in (0.0, 1.0, 2.0)
    )
    np.testing.assert_allclose(warm - cold, 2.0 * (z - cold), atol=1e-5)
    variance = (stds**2 + means**2).mean(axis=0) - means.mean(axis=0) ** 2
    standard_error = np.sqrt(variance / num_samples)
    assert (np.abs(z.mean(axis=0) - means.mean(axis=0)) < 4 * standard_error).all()
    squares = (z - means.mean(axis=0)) ** 2
    standard_error = squares.std(axis=0) / np.sqrt(num_samples)
    assert (np.abs(squares.mean(axis=0) - variance) < 4 * standard_error).all()


def test_gradients_reach_pseudo_inputs_and_encoder():
    rng, params = np.random.default_rng(0), init_params((3,))
    x = rng.uniform(size=(5, *IMAGE_SHAPE)).astype(np.float32)
    noise = rng.normal(size=(5, 3)).astype(np.float32)
    z = rng.normal(size=(5, 3)).astype(np.float32)
    prior_only = gradient_of(lambda p: apply((3,), p, "log_prior", z), params)
    joint = gradient_of(lambda p: apply((3,), p, "rate", x, noise), params)
    for gradient in (prior_only, joint):
        assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(gradient))
    assert (joint["prior"]["pseudo_inputs"] != 0).mean() > 0.9

    # The density of the prior depends on the parameters of the encoder.
    detached = {"prior": params["prior"], "encoder": jax.lax.stop_gradient(params["encoder"])}

    def half_joint(p):
        q = apply((3,), p, "encode", x)
        z = q.reparameterise(noise)
        return q.log_prob(z) - apply((3,), detached, "log_prior", z)

    half = gradient_of(half_joint, params)["encoder"]["head"]["kernel"]
    assert np.abs(half - joint["encoder"]["head"]["kernel"]).max() > 1e-3


def test_black_and_white_pixels_keep_a_gradient():
    params = init_params((3,))
    images = np.zeros((NUM_COMPONENTS, *IMAGE_SHAPE), np.uint8)
    images[:, 2:] = 255
    params["prior"] = start(images, NUM_COMPONENTS)
    gradient = gradient_of(lambda p: apply((3,), p, "log_prior", jnp.ones((1, 3))), params)
    assert (gradient["prior"]["pseudo_inputs"] != 0).all()


# Initial pseudo-inputs


def test_pseudo_inputs_begin_as_different_images():
    images = smooth_images(20, num_channels=3)
    images[:, :4], images[:, -4:] = 0, 255
    params = start(images, 8)
    pseudo_inputs = params["pseudo_inputs"]
    assert set(params) == {"pseudo_inputs"}
    assert (pseudo_inputs.shape, pseudo_inputs.dtype) == ((8, 16, 16, 3), np.float32)
    distances = np.abs(expit(pseudo_inputs)[:, None] - images / 255.0).max(axis=(2, 3, 4))
    assert (distances.min(axis=1) <= 0.01 + 1e-6).all()
    assert len(set(distances.argmin(axis=1))) == 8
    other = start(images, 8, seed=1)
    assert not np.array_equal(other["pseudo_inputs"], pseudo_inputs)


def test_fewer_images_than_components_are_all_used():
    images = smooth_images(3)
    pseudo_inputs = start(images, 7)["pseudo_inputs"]
    _, counts = np.unique(pseudo_inputs.reshape(7, -1), axis=0, return_counts=True)
    assert sorted(counts) == [2, 2, 3]


def test_images_in_the_unit_interval_are_an_error():
    with pytest.raises(ValueError, match="uint8 in 0..255, not float64"):
        start(smooth_images(3) / 255.0, 2)
