"""Tests of vae_jax/inference/ on the trained run."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vae_jax
from tests.conftest import IMAGE_SHAPE, TINY, read_state, smooth_images
from vae_jax import config as configuration
from vae_jax import evaluation
from vae_jax.errors import InputError
from vae_jax.inference import arguments
from vae_jax.recording.writers import read_metrics

LATENT_SHAPE = TINY["model.latent_shape"]
N = 11  # not a multiple of the batch size, 8
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return smooth_images(N, seed=9)


# What is loaded


def test_package_offers_load_and_what_it_returns(vae):
    assert isinstance(vae, vae_jax.TrainedVAE)
    assert (vae.image_shape, vae.latent_shape) == (IMAGE_SHAPE, LATENT_SHAPE)
    assert vae.batch_size == TINY["eval.batch_size"]


def test_loaded_model_gives_the_validation_elbo_that_training_logged(vae, trained_workdir):
    """Parameters, likelihood, noise and images are those of the run, which had other devices."""
    logged = {
        r["step"]: r["validation/elbo"]
        for r in read_metrics(trained_workdir)
        if "validation/elbo" in r
    }
    assert vae.step == max(logged, key=logged.get)  # 'best'
    split = vae.experiment.dataset.split("validation")
    summary = evaluation.validate(vae, split)
    np.testing.assert_allclose(summary.scalars["elbo"], logged[vae.step], rtol=1e-5)


@pytest.mark.parametrize(
    ("checkpoint", "step"), [("latest", 24), (24, 24), ("24", 24), (20, 20)], ids=repr
)
def test_checkpoint_is_chosen_by_name_or_step(trained_workdir, checkpoint, step):
    assert vae_jax.load(trained_workdir, checkpoint).step == step


def test_missing_checkpoint_is_named(trained_workdir):
    with pytest.raises(FileNotFoundError, match=r"checkpoint 7 .* steps \[20, 24\]"):
        vae_jax.load(trained_workdir, 7)


def test_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a training run"):
        vae_jax.load(tmp_path)


@pytest.mark.parametrize("use_ema", [True, False])
def test_parameters_are_averaged_or_raw_as_the_config_says(copied_workdir, use_ema):
    config = configuration.load(copied_workdir)
    config.eval.use_ema = use_ema
    configuration.save(config, IMAGE_SHAPE, {}, copied_workdir)
    state = jax.device_get(read_state(copied_workdir, "best"))
    used, other = state.ema_params, state.params
    if not use_ema:
        used, other = other, used
    loaded = jax.device_get(vae_jax.load(copied_workdir).params)
    jax.tree.map(np.testing.assert_array_equal, loaded, used)
    pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(other), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


@pytest.mark.parametrize("configured", [True, False])
def test_parameters_are_averaged_or_raw_as_the_caller_says(copied_workdir, configured):
    """The argument overrides the config, whose choice the test above covers."""
    config = configuration.load(copied_workdir)
    loads = {}
    for use_ema in (True, False):
        config.eval.use_ema = use_ema
        configuration.save(config, IMAGE_SHAPE, {}, copied_workdir)
        loads[use_ema] = jax.device_get(vae_jax.load(copied_workdir).params)
    config.eval.use_ema = configured
    configuration.save(config, IMAGE_SHAPE, {}, copied_workdir)
    for use_ema in (True, False):
        loaded = vae_jax.load(copied_workdir, use_ema=use_ema).params
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), loads[use_ema])
    pairs = zip(*map(jax.tree.leaves, loads.values()), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


def test_batch_size_is_the_callers(trained_workdir):
    assert vae_jax.load(trained_workdir, batch_size=6).batch_size == 6


def test_batch_size_is_rounded_up_to_a_multiple_of_the_devices(trained_workdir):
    assert vae_jax.load(trained_workdir, batch_size=7).batch_size == 8  # on two devices


def test_run_from_before_learned_priors_is_loaded(copied_workdir, vae):
    """Its config.json has no such section, and its checkpoints have no such parameters."""
    path = copied_workdir / configuration.CONFIG_FILE
    content = json.loads(path.read_text())
    del content["config"]["prior"], content["config"]["vae_workdir"]
    path.write_text(json.dumps(content))
    loaded = vae_jax.load(copied_workdir)
    assert set(loaded.params) == {"encoder", "decoder"}
    assert loaded.experiment.config["prior.name"] == "standard_normal"
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (loaded.params, vae.params)))


# Shapes and types


def check_images(x, n: int) -> None:
    assert isinstance(x, np.ndarray) and x.dtype == np.float32
    assert x.shape == (n, *IMAGE_SHAPE)
    assert x.min() >= 0.0 and x.max() <= 1.0


@pytest.mark.parametrize("n", [1, 8, N])
def test_arrays_of_any_length_give_numpy_of_that_length(vae, images, n):
    posterior = vae.encode(images[:n])
    for values in (posterior.mean, posterior.log_std):
        assert isinstance(values, np.ndarray) and values.dtype == np.float32
        assert values.shape == (n, *LATENT_SHAPE)
    check_images(vae.decode(posterior.mean), n)
    check_images(vae.decode(posterior.mean, KEY), n)
    check_images(vae.reconstruct(images[:n]), n)
    check_images(vae.reconstruct(images[:n], KEY), n)
    check_images(vae.sample(KEY, n), n)
    check_images(vae.sample(KEY, n, draw=True), n)
    for values in (vae.elbo(images[:n], KEY), vae.iw_elbo(images[:n], KEY, num_samples=2)):
        assert isinstance(values, np.ndarray) and values.dtype == np.float32
        assert values.shape == (n,)
    terms = vae.elbo_terms(images[:n], KEY)
    assert terms.distortion.shape == (n,) and terms.rate_per_dim.shape == (n, *LATENT_SHAPE)


def test_jax_arrays_are_taken_like_numpy_ones(vae, images):
    np.testing.assert_array_equal(vae.encode(jnp.asarray(images)).mean, vae.encode(images).mean)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_and_floats_of_the_unit_interval_agree(vae, images, dtype):
    floats = (images / 255.0).astype(dtype)
    np.testing.assert_allclose(vae.encode(floats).mean, vae.encode(images).mean, atol=1e-5)
    np.testing.assert_allclose(vae.elbo(floats, KEY), vae.elbo(images, KEY), rtol=1e-5)


# Randomness


@pytest.mark.parametrize(
    "draw",
    [
        lambda vae, images, key: vae.sample(key, N),
        lambda vae, images, key: vae.sample(key, N, draw=True),
        lambda vae, images, key: vae.decode(np.zeros((N, *LATENT_SHAPE)), key),
        lambda vae, images, key: vae.reconstruct(images, key),
        lambda vae, images, key: vae.elbo(images, key),
        lambda vae, images, key: vae.iw_elbo(images, key, num_samples=2),
    ],
    ids=["sample", "sample_draw", "decode", "reconstruct", "elbo", "iw_elbo"],
)
def test_draws_are_a_function_of_the_key(vae, images, draw):
    first = draw(vae, images, jax.random.key(1))
    np.testing.assert_array_equal(first, draw(vae, images, jax.random.key(1)))
    assert np.any(first != draw(vae, images, jax.random.key(2)))


def test_draws_differ_between_images(vae):
    """This includes images at the same position in two batches."""
    drawn = vae.decode(np.zeros((N, *LATENT_SHAPE)), KEY)
    assert len(np.unique(drawn.reshape(N, -1), axis=0)) == N
    same_images = np.repeat(smooth_images(1), N, axis=0)
    assert len(np.unique(vae.elbo(same_images, KEY))) == N


def test_drawn_images_do_not_depend_on_the_batch_size(vae, trained_workdir):
    z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE))
    other = vae_jax.load(trained_workdir, batch_size=4)
    differing = vae.decode(z, KEY) != other.decode(z, KEY)
    assert differing.mean() < 0.01  # a rounded level may tip over


def test_samples_decode_standard_normal_codes(vae, monkeypatch):
    codes = []
    monkeypatch.setattr(vae, "_decode", lambda z, key: codes.append(np.asarray(z)))
    vae.sample(KEY, 5000)
    (z,) = codes
    assert z.shape == (5000, *LATENT_SHAPE)
    assert np.all(np.abs(z.mean(axis=0)) < 5 / np.sqrt(5000))
    assert np.all(np.abs(z.var(axis=0) - 1) < 5 * np.sqrt(2 / 5000))


def test_samples_of_a_standard_normal_prior_are_those_of_earlier_versions(vae):
    z_key, x_key = jax.random.split(KEY)
    z = jax.random.normal(z_key, (N, *LATENT_SHAPE))
    np.testing.assert_array_equal(vae.sample(KEY, N), vae.decode(z))
    np.testing.assert_array_equal(vae.sample(KEY, N, draw=True), vae.decode(z, x_key))
    np.testing.assert_array_equal(vae.sample_prior(z_key, N), z)
    np.testing.assert_allclose(vae.sample_prior(z_key, N, 0.3), 0.3 * z, rtol=1e-6)
    assert vae.prior_is_exact


def test_standard_normal_latents_are_their_own_noise(vae):
    z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE)).astype(np.float32)
    assert vae.has_noise_map
    np.testing.assert_array_equal(vae.to_noise(z), z)
    np.testing.assert_array_equal(vae.from_noise(z), z)
    with pytest.raises(ValueError, match=r"z has shape .*: this model takes \(N, 4"):
        vae.to_noise(z[:, :2])


def test_log_prior_of_a_standard_normal_is_its_density(vae):
    z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE))
    log_prior = vae.log_prior(z, KEY)
    assert isinstance(log_prior, np.ndarray) and log_prior.dtype == np.float32
    np.testing.assert_allclose(log_prior, scipy.stats.norm.logpdf(z).sum(axis=1), rtol=1e-5)


# The likelihood at a code


def test_log_prob_is_that_of_the_decoders_outputs(vae, images):
    z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE)).astype(np.float32)
    outputs = vae.model.apply({"params": jax.device_get(vae.params)}, z, method="decode")
    expected = vae.likelihood.log_prob(outputs, np.float32(images / 255.0))
    actual = vae.log_prob(images, z)
    assert isinstance(actual, np.ndarray) and actual.dtype == np.float32 and actual.shape == (N,)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    # Each image has its own code.
    assert np.any(np.abs(vae.log_prob(images, np.roll(z, 1, axis=0)) - actual) > 1e-2)


def test_log_prob_at_a_known_code_is_minus_the_distortion_of_the_bound(vae, images):
    """If the posterior is a point, elbo_terms draws that point."""
    params = jax.device_get(vae.params)
    head = dict(params["encoder"]["head"])
    # softplus(-50) vanishes: the standard deviation is at its floor, 1e-4.
    head["kernel"] = head["kernel"] * (np.arange(8) < 4)
    head["bias"] = np.where(np.arange(8) < 4, head["bias"], -50.0).astype(np.float32)
    params = {**params, "encoder": {**params["encoder"], "head": head}}
    narrow = vae_jax.TrainedVAE(vae.experiment, params)
    posterior = narrow.encode(images)
    np.testing.assert_allclose(np.exp(posterior.log_std), 1e-4, rtol=1e-3)
    terms = narrow.elbo_terms(images, KEY)
    actual = narrow.log_prob(images, posterior.mean)
    np.testing.assert_allclose(actual, -terms.distortion, rtol=1e-3)
    assert np.ptp(actual) > 10 * np.abs(actual + terms.distortion).max()  # between images


# Errors


@pytest.mark.parametrize("method", ["encode", "reconstruct"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(IMAGE_SHAPE, np.uint8), r"shape \(16, 16, 1\): .* \(N, 16, 16, 1\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"shape \(2, 8, 8, 1\): .* \(N, 16, 16, 1\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), r"shape \(2, 16, 16, 3\)"),
        (np.full((2, *IMAGE_SHAPE), 255.0), r"lie in \[255.0, 255.0\]: scale them to \[0, 1\]"),
        (np.full((2, *IMAGE_SHAPE), -0.1), r"lie in \[-0.1, -0.1\]"),
        (np.full((2, *IMAGE_SHAPE), np.nan), r"nan"),
        (np.zeros((0, *IMAGE_SHAPE), np.uint8), r"shape \(0, 16, 16, 1\)"),
    ],
    ids=["no_batch", "size", "channels", "range", "negative", "nan", "empty"],
)
def test_wrong_images_are_refused(vae, method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(vae, method)(x)


@pytest.mark.parametrize("shape", [(2, 5), (4,), (2, 4, 4, 1)])
def test_wrong_codes_are_refused(vae, shape):
    with pytest.raises(ValueError, match=r"z has shape .*: this model takes \(N, 4"):
        vae.decode(np.zeros(shape))


def test_loading_needs_no_tensorflow(trained_workdir, monkeypatch):
    for name in ("clu", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert vae_jax.load(trained_workdir).step > 0


def test_flags_that_are_no_truth_values_are_refused(trained_workdir, vae):
    with pytest.raises(InputError, match="allow_other_images = 'no': must be True or False"):
        vae_jax.load(trained_workdir, allow_other_images="no")
    with pytest.raises(InputError, match="progress = 1: must be True or False"):
        vae.elbo_terms(np.zeros((1, *IMAGE_SHAPE)), jax.random.key(0), progress=1)


def test_largest_latents_are_decoded_to_finite_images(vae):
    z = np.full((1, *vae.latent_shape), arguments.MAX_LATENT, np.float32)
    assert np.isfinite(vae.decode(z)).all() and np.isfinite(vae.decode(-z)).all()
