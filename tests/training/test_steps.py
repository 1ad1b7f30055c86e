"""Tests of vae_jax/training/steps.py and vae_jax/inference/steps.py.

Tests of the images that the model sees replace it with a stub whose distortion is a number read off
the images. The stub compiles in no time and makes the expected value plain.
"""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.conftest import IMAGE_SHAPE, smooth_images
from vae_jax import optim
from vae_jax.checkpoints.state import TrainState, create_train_state
from vae_jax.distributions import DiagonalGaussian, standard_normal_log_prob, sum_event
from vae_jax.inference.steps import EvalSteps, fold_in_each
from vae_jax.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from vae_jax.models import VAE
from vae_jax.priors import StandardNormal
from vae_jax.priors.mixture import GaussianMixture
from vae_jax.runtime import sharding
from vae_jax.tasks import Batch, PriorTask, VAETask, split_batch, to_unit_interval
from vae_jax.tasks.batch import random_flip
from vae_jax.training import steps

MESH = sharding.create_mesh(jax.local_devices()[:1])
LATENT_DIMS = 4


def constant(value: float) -> Callable:
    return lambda step: jnp.asarray(value, jnp.float32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return smooth_images(32)


@pytest.fixture(scope="module")
def model() -> VAE:
    return VAE(
        image_shape=IMAGE_SHAPE,
        latent_shape=(LATENT_DIMS,),
        num_outputs=2,
        widths=(8,),
        num_blocks=(1,),
        patch_size=4,
    )


@dataclasses.dataclass
class RealSteps:
    """A jitted train step of a real model, and a fresh state for it at every call."""

    train_steps: Callable
    create_state: Callable[[], TrainState]


def make_real_steps(model, likelihood, steps_per_call=1, kl_weight=1.0, free_bits=0.0, rate=1e-3):
    tx = optim.create_optimizer("adam", constant(rate))
    task = VAETask(model, likelihood, free_bits=free_bits)
    train_step = steps.make_train_step(task, tx, constant(kl_weight), constant(rate))
    create = jax.jit(lambda: create_train_state(model, tx, jax.random.key(0)))
    return RealSteps(steps.jit_train_steps(train_step, MESH, steps_per_call), create)


@pytest.fixture(scope="module")
def single(model) -> RealSteps:
    return make_real_steps(model, DiscretizedLogistic(1))


@pytest.fixture(scope="module")
def scanned(model) -> RealSteps:
    return make_real_steps(model, DiscretizedLogistic(1), steps_per_call=4)


@pytest.fixture(scope="module")
def indices() -> np.ndarray:
    return np.random.default_rng(0).permutation(32).astype(np.int32).reshape(4, 8)


class StandardNormalStub:
    """The methods of a model that steps call for its prior, which is N(0, I)."""

    @property
    def latents(self):
        return jax.ShapeDtypeStruct(self.latent_shape, jnp.float32)

    def bind(self, variables):
        return SimpleNamespace(prior=StandardNormal(self.latent_shape))

    def score(self, z, method):
        """Returns the result of `prior_log_prob` or `prior_loss`."""
        log_prob = standard_normal_log_prob(z)
        return log_prob if method == "prior_log_prob" else (-log_prob, log_prob)


# The real model


@pytest.mark.long
def test_overfitting_one_batch_of_binary_images_brings_the_distortion_near_zero(model, images):
    """The best possible distortion of known binary images is 0; that of a guess is ln 2 a pixel."""
    binary = 255 * (images[:8] > 127).astype(np.uint8)
    likelihood = Bernoulli(1)
    model = model.clone(num_outputs=likelihood.num_outputs)
    real = make_real_steps(model, likelihood, kl_weight=0.01, rate=1e-2)
    state, batch = real.create_state(), np.arange(8, dtype=np.int32)[None]
    history = []
    for _ in range(300):
        state, metrics = real.train_steps(state, {"x": binary}, batch, jax.random.key(1))
        history.append(jax.device_get(metrics))
    guess = np.log(2.0) * np.prod(IMAGE_SHAPE)
    assert history[0]["distortion"][0] > 0.5 * guess
    assert history[-1]["distortion"][0] < 0.1 * guess
    assert history[-1]["loss"][0] < 0.2 * history[0]["loss"][0]


def test_four_steps_per_call_equal_four_calls_of_one(single, scanned, images, indices):
    key = jax.random.key(1)
    scanned_state, scanned_metrics = scanned.train_steps(
        scanned.create_state(), {"x": images}, indices, key
    )
    state, metrics = single.create_state(), []
    for row in indices:
        state, m = single.train_steps(state, {"x": images}, row[None], key)
        metrics.append(m)
    assert int(scanned_state.step) == int(state.step) == 4
    for name, values in scanned_metrics.items():
        assert values.shape == (4,) and values.dtype == jnp.float32
        expected = np.concatenate([m[name] for m in metrics])
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    # Adam divides by the root of the second moment: rounding in a gradient near 0 moves a parameter
    # by up to the learning rate a step.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        scanned_state.params,
        state.params,
    )


def test_images_of_this_call_train_bit_for_bit_as_resident_ones(scanned, images, indices):
    key = jax.random.key(1)
    resident = scanned.train_steps(scanned.create_state(), {"x": images}, indices, key)
    own = scanned.train_steps(scanned.create_state(), None, {"x": images[indices]}, key)
    jax.tree.map(np.testing.assert_array_equal, resident, own)


@pytest.mark.parametrize("flip", [False, True])
def test_posteriors_computed_beforehand_train_like_their_images(model, images, indices, flip):
    model = model.clone(make_prior=lambda vae: GaussianMixture((LATENT_DIMS,), 3))
    tx = optax.apply_if_finite(optax.sgd(1e-2), max_consecutive_errors=1)
    task = make_prior_task(model, DiscretizedLogistic(1), flip)
    train_steps = steps.jit_train_steps(
        steps.make_train_step(task, tx, constant(1.0), constant(1e-2)), MESH, steps_per_call=1
    )
    state = jax.jit(lambda: create_train_state(model, tx, jax.random.key(0), task.trained))
    variants = [images, images[:, :, ::-1]] if flip else [images]
    posteriors = [
        model.apply({"params": state().params}, to_unit_interval(x), method="encode")
        for x in map(jnp.asarray, variants)
    ]
    assert np.abs(posteriors[0].mean - posteriors[-1].mean).max() > 0.01 or not flip
    resident = jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *posteriors)
    image_state, posterior_state = state(), state()
    for row in indices:
        key = jax.random.key(1)
        image_state, expected = train_steps(image_state, {"x": images}, row[None], key)
        rows = {"posterior": resident}
        posterior_state, metrics = train_steps(posterior_state, rows, row[None], key)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        posterior_state.params,
        image_state.params,
    )


def test_state_is_donated(single, images, indices):
    state = single.create_state()
    single.train_steps(state, {"x": images}, indices[:1], jax.random.key(1))
    # Not all of opt_state: jit drops arrays that an update does not read, donated or not.
    used = (state.step, state.params, state.ema_params, optax.tree.get(state.opt_state, "mu"))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(used))


def test_elbo_has_no_weight_and_no_free_bits_but_the_loss_has(model, single, images, indices):
    weight, free_bits = 0.25, 10.0  # an untrained model uses less than 10 nats a dimension
    weighted = make_real_steps(model, DiscretizedLogistic(1), 1, weight, free_bits)
    plain, other = (
        jax.device_get(
            r.train_steps(r.create_state(), {"x": images}, indices[:1], jax.random.key(1))[1]
        )
        for r in (single, weighted)
    )
    assert 0 < plain["rate"][0] < free_bits
    for name in ("elbo", "rate", "distortion"):
        np.testing.assert_allclose(other[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(plain["elbo"], -(plain["distortion"] + plain["rate"]), rtol=1e-6)
    np.testing.assert_allclose(plain["loss"], -plain["elbo"], rtol=1e-6)
    expected = other["distortion"] + weight * LATENT_DIMS * free_bits
    np.testing.assert_allclose(other["loss"], expected, rtol=1e-6)
    assert other["kl_weight"] == weight


class LinearModel(StandardNormalStub):
    """Makes one code per image from its mean level, with one slope and one offset each way."""

    latent_shape = (1,)

    def apply(self, variables, x, *keys, method):
        if method.startswith("prior"):
            return self.score(x, method)
        params = variables["params"]
        if method == "encode":
            level = x.mean(axis=(1, 2, 3))[:, None]
            log_std = jnp.full_like(level, params["log_std"])
            return DiagonalGaussian(params["slope"] * level + params["offset"], log_std)
        logits = params["weight"] * x[..., None, None] + params["bias"]
        return jnp.broadcast_to(logits, (len(x), *IMAGE_SHAPE))


def update_linear_model(images, kl_weight, **kwargs):
    """Returns (metrics, update of each parameter) of one gradient descent step at rate 1."""
    tx = optax.apply_if_finite(optax.sgd(1.0), max_consecutive_errors=1)
    task = VAETask(LinearModel(), Bernoulli(1), **kwargs)
    train_step = steps.make_train_step(task, tx, constant(kl_weight), constant(1.0))
    names = ("slope", "offset", "log_std", "weight", "bias")
    params = {name: jnp.asarray(0.1 * (i + 1)) for i, name in enumerate(names)}
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), params)
    new, metrics = jax.jit(train_step)(state, {"x": images}, jax.random.key(0))
    return metrics, {name: np.float64(params[name] - new.params[name]) for name in names}


def test_gradient_of_the_averaged_distortion_is_that_of_a_larger_kl_weight(images):
    """D / n + w R is (D + n w R) / n; the logged bound stays in nats."""
    num_values, kl_weight = np.prod(IMAGE_SHAPE), 0.5
    metrics, update = update_linear_model(images, kl_weight, distortion_weight=1.0 / num_values)
    other, expected = update_linear_model(images, num_values * kl_weight)
    for name, value in update.items():
        # Updates are differences of parameters near 0.1 to 0.5.
        np.testing.assert_allclose(value, expected[name] / num_values, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], other["grad_norm"] / num_values, rtol=1e-4)
    for name in ("elbo", "distortion", "rate"):
        np.testing.assert_allclose(metrics[name], other[name], rtol=1e-6)
    loss = metrics["distortion"] / num_values + kl_weight * metrics["rate"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert all(abs(value) > 1e-4 for value in update.values())


# What the model is shown


class StubModel(StandardNormalStub):
    """The posterior is N(0, 1); the decoder returns z."""

    latent_shape = IMAGE_SHAPE

    def init(self, key, x):
        return {"params": {"unused": jnp.zeros(())}}

    def apply(self, variables, x, *keys, method):
        if method.startswith("prior"):
            return self.score(x, method)
        if method == "encode":
            return DiagonalGaussian(jnp.zeros_like(x), jnp.zeros_like(x))
        return x


@dataclasses.dataclass(frozen=True)
class StubLikelihood:
    """Its distortion is `statistic(outputs, x)`, [B]."""

    statistic: Callable
    binarize: bool = False
    optimal_scale = False

    def log_prob(self, outputs, x):
        return -self.statistic(outputs, x)


def stub_distortions(statistic, images, num_steps=1, key=0, first_step=0, binarize=False, **kwargs):
    """Returns the distortion of each step: the mean of the statistic over all `images`."""
    tx = optim.create_optimizer("adam", constant(1e-3))
    task = VAETask(StubModel(), StubLikelihood(statistic, binarize), **kwargs)
    train_step = steps.make_train_step(task, tx, constant(1), constant(1))
    params = {"unused": jnp.zeros(())}
    state = TrainState(
        jnp.asarray(first_step), params, tx.init(params), jax.tree.map(jnp.copy, params)
    )
    train_steps = steps.jit_train_steps(train_step, MESH, num_steps)
    indices = np.tile(np.arange(len(images), dtype=np.int32), (num_steps, 1))
    return np.asarray(
        train_steps(state, {"x": images}, indices, jax.random.key(key))[1]["distortion"]
    )


def has_white_left_edge(outputs, x):
    return (x[:, 0, 0, 0] == 1.0).astype(jnp.float32)


def test_flip_mirrors_half_of_the_images_anew_at_each_step():
    marked = np.zeros((100, *IMAGE_SHAPE), np.uint8)
    marked[:, :, 0] = 255
    fractions = stub_distortions(has_white_left_edge, marked, num_steps=20, flip=True)
    # Of 2000 fair coins, 5 standard deviations are 0.056; of 100, 0.25.
    assert abs(fractions.mean() - 0.5) < 0.056
    assert np.all(np.abs(fractions - 0.5) < 0.25)
    assert len(np.unique(fractions)) > 3


def test_nothing_is_mirrored_without_flip():
    marked = np.zeros((100, *IMAGE_SHAPE), np.uint8)
    marked[:, :, 0] = 255
    np.testing.assert_array_equal(stub_distortions(has_white_left_edge, marked, num_steps=5), 1.0)


def test_random_flip_leaves_an_image_as_it_is_or_mirrors_its_width(images):
    x = to_unit_interval(jnp.asarray(images))
    flipped = np.asarray(random_flip(jax.random.key(0), x))
    same = (flipped == np.asarray(x)).all(axis=(1, 2, 3))
    mirrored = (flipped == np.asarray(x)[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert same.any() and mirrored.any()


@pytest.mark.parametrize("binarize", [False, True])
def test_binarize_shows_binary_draws_of_the_right_mean(binarize):
    grey = np.full((100, *IMAGE_SHAPE), 51, np.uint8)  # 51 / 255 = 0.2
    keywords = {"num_steps": 4, "binarize": binarize}
    means = stub_distortions(lambda _, x: x.mean(axis=(1, 2, 3)), grey, **keywords)
    num_grey = stub_distortions(lambda _, x: sum_event((x * (1 - x) > 0) + 0.0), grey, **keywords)
    if binarize:
        # 5 standard deviations of the mean of 25,600 draws.
        assert np.all(np.abs(means - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 25600))
        assert len(np.unique(means)) == 4  # drawn afresh at each step
        np.testing.assert_array_equal(num_grey, 0)
    else:
        np.testing.assert_allclose(means, 0.2, rtol=1e-6)
        np.testing.assert_array_equal(num_grey, np.prod(IMAGE_SHAPE))


def test_noise_is_a_function_of_key_and_step_and_standard_normal():
    black = np.zeros((100, *IMAGE_SHAPE), np.uint8)

    def mean_noise(z, _):
        return z.mean(axis=(1, 2, 3))

    noise = stub_distortions(mean_noise, black, num_steps=4)
    assert len(np.unique(noise)) == 4
    later = stub_distortions(mean_noise, black, num_steps=2, first_step=2)
    np.testing.assert_allclose(later, noise[2:], rtol=1e-4, atol=1e-7)
    assert stub_distortions(mean_noise, black, key=1)[0] != noise[0]
    assert np.all(np.abs(noise) < 5 / np.sqrt(25600))
    squares = stub_distortions(lambda z, _: (z**2).mean(axis=(1, 2, 3)), black)
    np.testing.assert_allclose(squares, 1.0, atol=5 * np.sqrt(2 / 25600))


# The optimal variance of a batch


class ConstantGrey(StandardNormalStub):
    """Decodes everything to one grey value, sigmoid(bias)."""

    latent_shape = (1,)

    def apply(self, variables, x, *keys, method):
        if method.startswith("prior"):
            return self.score(x, method)
        params = variables["params"]["decoder"]
        if method == "encode":
            zeros = jnp.zeros((len(x), 1))
            return DiagonalGaussian(zeros, zeros)
        outputs = jnp.broadcast_to(params["bias"], (len(x), *IMAGE_SHAPE))
        log_std = jnp.broadcast_to(params["log_std"], outputs.shape)
        return jnp.concatenate([outputs, log_std], axis=-1)


def train_constant_grey(images, variance: str):
    tx = optim.create_optimizer("adam", constant(0.1))
    likelihood = Gaussian(1, variance)
    train_step = steps.make_train_step(
        VAETask(ConstantGrey(), likelihood), tx, constant(1.0), constant(0.1), ema_decay=0.0
    )
    params = {"decoder": {"bias": jnp.zeros(()), "log_std": jnp.asarray(-1.0)}}
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), params)
    return jax.jit(train_step)(state, {"x": images}, jax.random.key(0))


def test_batch_optimal_variance_is_the_mean_squared_error_and_is_kept(images):
    state, metrics = train_constant_grey(images, "batch_optimal")
    variance = np.mean((images / 255.0 - 0.5) ** 2)  # of the grey value before the update
    # At its maximum over sigma, -log p is (log(2 pi sigma^2) + 1) / 2 a pixel.
    expected = 0.5 * np.prod(IMAGE_SHAPE) * (np.log(2 * np.pi * variance) + 1)
    np.testing.assert_allclose(metrics["distortion"], expected, rtol=1e-5)
    for params in (state.params, state.ema_params):
        raw = np.float64(params["decoder"]["log_std"])
        log_std = -6.0 + np.log1p(np.exp(raw + 6.0))  # the documented floor, softplus
        np.testing.assert_allclose(np.exp(2 * log_std), variance, rtol=1e-5)
    assert state.params["decoder"]["bias"] != 0.0


def test_learned_variance_moves_by_the_optimiser(images):
    state, _ = train_constant_grey(images, "learned")
    # Adam's first step is the learning rate against the sign of the gradient: the error of 0.5
    # grey is below exp(-1), so that the standard deviation shrinks.
    assert np.mean((images / 255.0 - 0.5) ** 2) < np.exp(-2.0)
    np.testing.assert_allclose(state.params["decoder"]["log_std"], -1.1, rtol=1e-4)


@pytest.mark.parametrize("variance", ["learned", "batch_optimal"])
def test_skipped_update_leaves_the_variance_as_it_was(variance):
    state, metrics = train_constant_grey(np.full((2, *IMAGE_SHAPE), np.nan), variance)
    assert metrics["skipped_updates"] == 1
    for params in (state.params, state.ema_params):
        assert params["decoder"] == {"bias": 0.0, "log_std": -1.0}


# A frozen VAE, and priors that are learned with it


class ScoredModel:
    """The posterior is N(mean, 1), the decoder returns z, and the prior has two distinct terms.

    Its log p(z) is `log_prior` + z; the loss that it minimises is `scale` squared.
    """

    latents = jax.ShapeDtypeStruct((1,), jnp.float32)

    def apply(self, variables, x, *keys, method):
        params = variables["params"]
        if method == "encode":
            mean = jnp.full((len(x), 1), params["encoder"]["mean"])
            return DiagonalGaussian(mean, jnp.zeros_like(mean))
        if method == "decode":
            return x + params["decoder"]["bias"]
        assert method == "prior_loss" and len(keys) == 1
        log_prior = params["prior"]["log_prior"] + x[:, 0]
        return jnp.full(len(x), params["prior"]["scale"] ** 2), log_prior


def make_scored_state(tx, frozen: bool) -> TrainState:
    params = {
        "encoder": {"mean": jnp.asarray(0.3)},
        "decoder": {"bias": jnp.asarray(0.7), "log_std": jnp.asarray(-1.0)},
        "prior": {"log_prior": jnp.asarray(-1.5), "scale": jnp.asarray(2.0)},
    }
    part = params["prior"] if frozen else params
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(part), params)


def make_prior_task(model, likelihood, flip=False) -> PriorTask:
    return PriorTask(model, likelihood, flip, vae_workdir="", start_prior=None, seed=0)


def train_scored(images, frozen: bool, likelihood=None):
    """Returns (state before, state after one gradient descent step at rate 0.1, metrics)."""
    tx = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=1)
    likelihood = likelihood or StubLikelihood(lambda z, x: (z**2).sum(axis=1))
    make_task = make_prior_task if frozen else VAETask
    train_step = steps.make_train_step(
        make_task(ScoredModel(), likelihood), tx, constant(0.5), constant(0.1)
    )
    state = make_scored_state(tx, frozen)
    return state, *jax.jit(train_step)(state, {"x": images}, jax.random.key(3))


def scored_draws(images) -> np.ndarray:
    """Returns the z of that step."""
    task = VAETask(ScoredModel(), StubLikelihood(None))
    batch = task.prepare({"x": images}, jax.random.key(3), 0)
    return np.float64(0.3 + batch.noise)[:, 0]


def test_step_on_a_frozen_vae_minimises_the_priors_loss_and_changes_nothing_else(images):
    # The variance, otherwise set to the optimum of each batch, must not change either.
    batch_optimal = Gaussian(1, "batch_optimal")
    before, after, metrics = train_scored(images, frozen=True, likelihood=batch_optimal)
    for params in (after.params, after.ema_params):
        for part in ("encoder", "decoder"):
            jax.tree.map(np.testing.assert_array_equal, params[part], before.params[part])
        # The loss is scale^2 and not minus log p(z), whose parameters have no gradient.
        assert params["prior"]["log_prior"] == -1.5
    np.testing.assert_allclose(after.params["prior"]["scale"], 2.0 - 0.1 * 4.0, rtol=1e-6)
    # The first average after a step with warm-up is 0.1 e + 0.9 p.
    ema = after.ema_params["prior"]["scale"]
    np.testing.assert_allclose(ema, 0.1 * 2.0 + 0.9 * 1.6, rtol=1e-6)
    assert int(after.step) == 1
    assert metrics.keys().isdisjoint({"elbo", "distortion"})
    np.testing.assert_allclose(metrics["loss"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["update_norm"], 0.4, rtol=1e-5)
    np.testing.assert_allclose(metrics["param_norm"], np.hypot(1.6, 1.5), rtol=1e-5)
    # KL(N(0.3, 1), N(0, 1)) minus the log-density ratio of the prior and N(0, 1).
    z = scored_draws(images)
    log_normal = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    rate = 0.5 * 0.3**2 - (z - 1.5 - log_normal).mean()
    np.testing.assert_allclose(metrics["rate"], rate, rtol=1e-5)


def test_step_in_joint_training_minimises_the_bound_with_the_learned_prior(images):
    before, after, metrics = train_scored(images, frozen=False)
    z = scored_draws(images)
    log_normal = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    rate = 0.5 * 0.3**2 - (z - 1.5 - log_normal).mean()
    distortion = ((z + 0.7) ** 2).mean()
    np.testing.assert_allclose(metrics["rate"], rate, rtol=1e-5)
    np.testing.assert_allclose(metrics["distortion"], distortion, rtol=1e-5)
    np.testing.assert_allclose(metrics["elbo"], -distortion - rate, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], distortion + 0.5 * rate, rtol=1e-5)
    gradient = {
        # d/dmean of KL(N(mean, 1), N(0, 1)) - z - z^2 / 2, and of (z + bias)^2.
        "mean": (2 * (z + 0.7)).mean() + 0.5 * (0.3 - (1.0 + z).mean()),
        "bias": (2 * (z + 0.7)).mean(),
        "log_prior": -0.5,
        "scale": 0.0,  # only the loss of the bound counts here
    }
    for part in ("encoder", "decoder", "prior"):
        for name, old in before.params[part].items():
            moved = np.float64(old) - np.float64(after.params[part][name])
            np.testing.assert_allclose(moved, 0.1 * gradient.get(name, 0.0), rtol=1e-4, atol=1e-6)


def test_state_on_a_frozen_vae_optimises_the_prior_only(model):
    model = model.clone(make_prior=lambda vae: GaussianMixture((LATENT_DIMS,), 3))
    tx = optim.create_optimizer("adam", constant(1e-3))
    tasks = VAETask(model, Bernoulli(1)), make_prior_task(model, Bernoulli(1))
    joint, frozen = (
        jax.eval_shape(lambda t=t: create_train_state(model, tx, jax.random.key(0), t.trained))
        for t in tasks
    )
    assert jax.tree.structure(joint.params) == jax.tree.structure(frozen.params)
    moments = optax.tree.get(frozen.opt_state, "mu")
    assert jax.tree.structure(moments) == jax.tree.structure(frozen.params["prior"])
    moments = optax.tree.get(joint.opt_state, "mu")
    assert jax.tree.structure(moments) == jax.tree.structure(joint.params)


# Skipped updates


def test_update_with_nan_gradients_changes_nothing_but_the_counts(images):
    tx = optim.create_optimizer("adam", constant(0.1))
    poisoned = StubLikelihood(lambda z, x: z.mean(axis=(1, 2, 3)) * jnp.nan)

    class Scaled(StubModel):
        def apply(self, variables, x, *keys, method):
            scaled = x * variables["params"]["scale"]
            return super().apply(variables, scaled, *keys, method=method)

    task = VAETask(Scaled(), poisoned)
    train_step = steps.make_train_step(task, tx, constant(1.0), constant(0.1))
    params = {"scale": jnp.ones(())}
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), params)
    train = jax.jit(train_step)
    for number in (1, 2):
        state, metrics = train(state, {"x": jnp.ones((2, *IMAGE_SHAPE))}, jax.random.key(0))
        assert metrics["skipped_updates"] == metrics["skipped_in_a_row"] == number
    assert int(state.step) == 2
    assert state.params["scale"] == state.ema_params["scale"] == 1.0
    assert optax.tree.get(state.opt_state, "mu")["scale"] == 0.0


# Evaluation


class CopyModel(StubModel):
    """The posterior's mean is the image itself, its standard deviation 1."""

    def apply(self, variables, x, *keys, method):
        if method == "encode":
            return DiagonalGaussian(x, jnp.zeros_like(x))
        return super().apply(variables, x, *keys, method=method)


@pytest.fixture(scope="module")
def binary_steps() -> EvalSteps:
    likelihood = StubLikelihood(lambda _, x: x.mean(axis=(1, 2, 3)), binarize=True)
    return EvalSteps(CopyModel(), likelihood, MESH, jax.random.key(7))


def test_evaluation_draws_binary_images_of_the_right_mean(binary_steps):
    grey = np.full((100, *IMAGE_SHAPE), 51, np.uint8)
    drawn = np.asarray(binary_steps.encode({}, grey, np.arange(100)).mean)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert abs(drawn.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / drawn.size)
    assert len(np.unique(drawn.reshape(100, -1), axis=0)) == 100


def test_evaluation_draws_the_same_binary_image_for_the_same_id(binary_steps, images):
    ids = np.arange(32)
    order = np.random.default_rng(0).permutation(32)
    drawn = np.asarray(binary_steps.encode({}, images, ids).mean)
    shuffled = np.asarray(binary_steps.encode({}, images[order], ids[order]).mean)
    np.testing.assert_array_equal(shuffled, drawn[order])
    other = np.asarray(binary_steps.encode({}, images, ids + 1000).mean)
    assert np.any(other != drawn)


def test_all_evaluation_functions_see_the_same_binary_image(binary_steps, images):
    ids, key = np.arange(32), jax.random.key(3)
    posterior = binary_steps.encode({}, images, ids)
    expected = np.asarray(posterior.mean).mean(axis=(1, 2, 3))
    terms = binary_steps.elbo_terms({}, images, ids, key)
    np.testing.assert_allclose(terms.distortion, expected, rtol=1e-6)
    log_weights = np.asarray(binary_steps.log_weights({}, posterior, images, ids, key), np.float64)
    # With x the mean and 1 the deviation of q: log p(z) - log q(z) = |e|^2 / 2 - |x + e|^2 / 2.
    noise = jax.vmap(lambda k: jax.random.normal(k, IMAGE_SHAPE))(fold_in_each(key, ids))
    x, noise = np.asarray(posterior.mean, np.float64), np.asarray(noise, np.float64)
    ratio = -(x * noise + 0.5 * x**2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(log_weights, -expected + ratio, rtol=1e-4, atol=1e-3)


def test_grey_levels_become_the_unit_interval():
    levels = np.arange(256, dtype=np.uint8)
    x = to_unit_interval(jnp.asarray(levels))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, levels / 255.0, rtol=1e-7)
    assert x[0] == 0.0 and x[-1] == 1.0


# Gradient accumulation


def test_parts_of_a_batch_add_up_to_it(images):
    labels = jnp.arange(len(images))
    batch = Batch(jnp.asarray(images), None, labels, labels, jax.random.key(0))
    parts = split_batch(batch, 2)
    assert parts.x.shape == (2, len(images) // 2, *images.shape[1:])
    for i in range(2):
        np.testing.assert_array_equal(parts.x[i], images[i::2])
        np.testing.assert_array_equal(parts.noise[i], np.arange(len(images))[i::2])
        np.testing.assert_array_equal(parts.label[i], np.arange(len(images))[i::2])
    keys = jax.random.key_data(parts.prior_key)
    assert not np.array_equal(keys[0], keys[1])


@pytest.mark.parametrize("num_parts", [2])
def test_accumulated_update_is_that_of_the_whole_batch(num_parts):
    model = VAE(IMAGE_SHAPE, (4,), num_outputs=2, widths=(8,), num_blocks=(1,), patch_size=4)
    tx = optim.create_optimizer("adam", constant(1e-3), clip_norm=1.0)
    task, rows = VAETask(model, DiscretizedLogistic(1)), {"x": smooth_images(8)}
    results = []
    for accumulation_steps in (1, num_parts):
        train_step = steps.make_train_step(
            task, tx, constant(0.5), constant(1e-3), accumulation_steps=accumulation_steps
        )
        state = create_train_state(model, tx, jax.random.key(0))
        results.append(jax.jit(train_step)(state, rows, jax.random.key(1)))
    (state, metrics), (accumulated, accumulated_metrics) = results
    for name, value in metrics.items():
        np.testing.assert_allclose(accumulated_metrics[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        accumulated.opt_state,
        state.opt_state,
    )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_parts_of_a_batch_are_in_memory_one_at_a_time_but_not_on_a_cpu(backend, monkeypatch):
    model = VAE(IMAGE_SHAPE, (4,), num_outputs=2, widths=(16,), num_blocks=(1,), patch_size=2)
    task = VAETask(model, DiscretizedLogistic(1))
    params = model.init(jax.random.key(0), jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    batch = task.prepare({"x": jnp.zeros((64, *IMAGE_SHAPE))}, jax.random.key(0), 0)
    monkeypatch.setattr(
        jax, "default_backend", lambda: backend
    )  # but everything is compiled for the CPU
    whole, accumulated = (
        jax.jit(steps.make_gradient_fn(task, num_parts)).lower(params, batch, 1.0).compile()
        for num_parts in (1, 4)
    )
    assert "while" not in whole.as_text()
    if backend == "cpu":
        assert "while" not in accumulated.as_text()
    else:
        size, whole_size = (
            compiled.memory_analysis().temp_size_in_bytes for compiled in (accumulated, whole)
        )
        assert size < whole_size / 2
