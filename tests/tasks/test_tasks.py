"""Tests of vae_jax/tasks: labels on their way to the loss, and several groups of latents.

What a task makes of images is tested in tests/training/test_steps.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.conftest import IMAGE_SHAPE
from vae_jax.checkpoints.state import TrainState
from vae_jax.data import Split
from vae_jax.distributions import (
    DiagonalGaussian,
    posterior_log_prob,
    sample_posterior,
    standard_normal_log_prob,
)
from vae_jax.inference.steps import EvalSteps
from vae_jax.likelihoods import Gaussian
from vae_jax.priors import StandardNormal
from vae_jax.runtime import sharding
from vae_jax.tasks import PriorTask, Rows, Task, VAETask, readers
from vae_jax.training import steps

NUM_IMAGES = 12
TX = optax.apply_if_finite(optax.sgd(0.1), max_consecutive_errors=1)
MESH = sharding.create_mesh(jax.local_devices()[:1])


def constant(value: float):
    return lambda step: jnp.asarray(value, jnp.float32)


# Labels


@pytest.fixture(scope="module")
def split() -> Split:
    """Images that can be told apart, mirrored or not: the left half is white in odd rows only."""
    images = np.zeros((NUM_IMAGES, *IMAGE_SHAPE), np.uint8)
    images[:, :, :8, 0] = 20 * np.arange(1, NUM_IMAGES + 1)[:, None, None]
    # Rows of the split are not rows of the file.
    return Split("train", images, np.arange(NUM_IMAGES, dtype=np.uint8), np.arange(2, 10))


class ImageModel:
    """A model without parameters in use, for tasks whose loss looks at the batch alone."""

    latents = jax.ShapeDtypeStruct((1,), jnp.float32)


@dataclasses.dataclass(frozen=True)
class LabelTask(Task):
    """Counts the images whose label is not the one that their grey value encodes."""

    def loss(self, params, batch, kl_weight):
        grey = jnp.round(batch.x.max(axis=(1, 2, 3)) * 255 / 20) - 1
        wrong = jnp.mean((grey != batch.label).astype(jnp.float32))
        mirrored = jnp.mean((batch.x[:, 0, 0, 0] == 0).astype(jnp.float32))
        metrics = {"wrong": wrong, "mirrored": mirrored, "label": batch.label.mean()}
        return params["unused"] * 0.0, (metrics, None)


def do_one_step(task: Task, rows: Rows, num_parts: int) -> dict[str, float]:
    train_step = steps.make_train_step(
        task, TX, constant(1.0), constant(0.1), accumulation_steps=num_parts
    )
    params = {"unused": jnp.zeros(())}
    state = TrainState(jnp.zeros((), jnp.int32), params, TX.init(params), params)
    return jax.device_get(jax.jit(train_step)(state, rows, jax.random.key(0))[1])


@pytest.mark.parametrize("num_parts", [1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_labels_stay_with_their_images(split, flip, num_parts):
    rows = {name: read(slice(None)) for name, read in readers(split).items()}
    task = LabelTask(ImageModel(), Gaussian(1), flip)
    metrics = do_one_step(task, rows, num_parts)
    assert metrics["wrong"] == 0
    assert 0 < metrics["mirrored"] < 1 if flip else metrics["mirrored"] == 0
    np.testing.assert_allclose(metrics["label"], np.arange(2, 10).mean())
    wrong = do_one_step(task, rows | {"label": rows["label"][::-1]}, num_parts)
    assert wrong["wrong"] == 1


def test_labels_are_optional(split):
    rows = {
        name: read(slice(None))
        for name, read in readers(dataclasses.replace(split, labels=None)).items()
    }
    assert rows.keys() == {"x"}
    batch = VAETask(ImageModel(), Gaussian(1)).prepare(rows, jax.random.key(0), 0)
    assert batch.label is None


def test_labels_stay_with_posteriors_that_are_computed_before_training(split):
    class Encoder:
        def encode(self, images):
            level = images.max(axis=(1, 2, 3)).astype(np.float32)[:, None]
            return DiagonalGaussian(level, np.zeros_like(level))

    task = PriorTask(ImageModel(), Gaussian(1), True, vae_workdir="", start_prior=None, seed=0)
    rows = task.resident_rows(split, Encoder(), 1000)
    chosen = np.array([5, 0, 3])
    batch = task.prepare(jax.tree.map(lambda a: a[chosen], rows), jax.random.key(0), 0)
    np.testing.assert_array_equal(batch.posterior.mean[:, 0], 20 * (batch.label + 1.0))
    np.testing.assert_array_equal(batch.label, [7, 2, 5])


# Groups of latents


LATENTS = {
    "grid": jax.ShapeDtypeStruct((2, 2, 1), jnp.float32),
    "vector": jax.ShapeDtypeStruct((3,), jnp.float32),
}


class TwoGroups:
    """A model with two groups of latents, a grid and a vector, under N(0, I)."""

    @property
    def latents(self):
        return LATENTS

    def bind(self, variables):
        return dataclasses.make_dataclass("Bound", ["prior"])(StandardNormal((3,)))

    def apply(self, variables, x, *keys, method):
        params = variables["params"]
        if method == "encode":
            level = x.mean(axis=(1, 2, 3))
            return {
                name: DiagonalGaussian(
                    params[name] * jnp.ones((len(x), *like.shape)) + _column(level, like.shape),
                    jnp.full((len(x), *like.shape), -1.0),
                )
                for name, like in LATENTS.items()
            }
        if method == "decode":
            level = x["grid"].mean(axis=(1, 2, 3)) + x["vector"].mean(axis=1)
            return jnp.broadcast_to(_column(level, IMAGE_SHAPE), (len(level), *IMAGE_SHAPE))
        log_prob = standard_normal_log_prob(x)
        return log_prob if method == "prior_log_prob" else (-log_prob, log_prob)


def _column(values, shape):
    return values.reshape(-1, *[1] * len(shape))


LIKELIHOOD = Gaussian(1, "fixed", 0.5)
PARAMS = {"grid": jnp.asarray(0.3), "vector": jnp.asarray(-0.2)}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).random((6, *IMAGE_SHAPE), np.float32)


def kl(mean: np.ndarray, log_std: float) -> np.ndarray:
    """Returns KL(N(mean, exp(log_std)^2), N(0, 1)) summed over dimensions, [B]."""
    terms = 0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std
    return terms.reshape(len(mean), -1).sum(axis=1)


def expected_rate(x: np.ndarray) -> np.ndarray:
    level = x.mean(axis=(1, 2, 3), dtype=np.float64)
    grid = np.repeat(0.3 + level[:, None], 4, axis=1)
    vector = np.repeat(-0.2 + level[:, None], 3, axis=1)
    return kl(grid, -1.0) + kl(vector, -1.0)


def test_model_with_two_groups_of_latents_is_trained_on_both(x):
    task = VAETask(TwoGroups(), LIKELIHOOD)
    train_step = steps.make_train_step(task, TX, constant(1.0), constant(0.1))
    state = TrainState(jnp.zeros((), jnp.int32), PARAMS, TX.init(PARAMS), PARAMS)
    after, metrics = jax.jit(train_step)(state, {"x": x}, jax.random.key(0))
    np.testing.assert_allclose(metrics["rate"], expected_rate(x).mean(), rtol=1e-5)
    for name in PARAMS:
        assert after.params[name] != PARAMS[name]


def test_free_bits_are_free_in_each_dimension_of_each_group(x):
    task = VAETask(TwoGroups(), LIKELIHOOD, free_bits=100.0)
    batch = task.prepare({"x": x}, jax.random.key(0), 0)
    loss, (metrics, _) = task.loss(PARAMS, batch, 1.0)
    np.testing.assert_allclose(loss, metrics["distortion"] + 100.0 * (4 + 3), rtol=1e-6)


def test_noise_differs_between_groups_and_has_their_shapes(x):
    noise = VAETask(TwoGroups(), LIKELIHOOD).prepare({"x": x}, jax.random.key(0), 0).noise
    assert {name: n.shape for name, n in noise.items()} == {"grid": (6, 2, 2, 1), "vector": (6, 3)}
    assert not np.any(np.isin(noise["grid"], noise["vector"]))


def test_evaluation_functions_take_groups_of_latents(x):
    eval_steps = EvalSteps(TwoGroups(), LIKELIHOOD, MESH, jax.random.key(7))
    ids, key = np.arange(6), jax.random.key(1)
    terms = eval_steps.elbo_terms(PARAMS, x, ids, key)
    np.testing.assert_allclose(terms.rate, expected_rate(x), rtol=1e-5)
    posterior = eval_steps.encode(PARAMS, x, ids)
    log_weights = eval_steps.log_weights(PARAMS, posterior, x, ids, key)
    # E_q[log p(z) - log q(z)] is minus the rate: the difference is that of one draw.
    z = sample_posterior(posterior, key)
    assert jax.tree.map(jnp.shape, z) == {"grid": (6, 2, 2, 1), "vector": (6, 3)}
    log_prob = log_weights + terms.distortion
    ratios = standard_normal_log_prob(z) - posterior_log_prob(posterior, z)
    assert abs(np.mean(log_prob - ratios)) < 6 * np.std(ratios - log_prob) / np.sqrt(6) + 1e-6
