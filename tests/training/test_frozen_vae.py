"""Tests of vae_jax/tasks/prior.py and of runs that train a prior on a trained VAE."""

import dataclasses
import functools
import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

import vae_jax
from tests import conftest
from tests.conftest import (
    IMAGE_SHAPE,
    NUM_TEST,
    NUM_TRAIN,
    SMALL_PRIOR,
    TINY,
    make_config,
    make_experiment,
    raise_sigterm_after,
    smooth_images,
)
from vae_jax import config as configuration
from vae_jax import evaluation, experiment, priors, training
from vae_jax.checkpoints.state import TrainState
from vae_jax.evaluation import grids
from vae_jax.inference import TrainedVAE
from vae_jax.inference.steps import fold_in_each
from vae_jax.recording.writers import Summary, read_metrics
from vae_jax.tasks import PriorTask

LONG = ("flow", "ex_post_mixture")
LEARNED = [pytest.param(n, marks=[pytest.mark.long] * (n in LONG)) for n in priors.names()[1:]]
LATENT_SHAPE, NUM_STEPS = (4, 4, 2), 8
SHORT = {
    "train__num_steps": NUM_STEPS,
    "train__eval_every_steps": NUM_STEPS,
    "train__checkpoint_every_steps": NUM_STEPS,
}
KEY = jax.random.key(5)
N = 11  # not a multiple of the batch size, 8


def evaluate_nothing(vae, split) -> Summary:
    return Summary({"elbo": -1.0, "rate": 0.0, "distortion": 1.0})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return smooth_images(N, seed=9)


@pytest.fixture(scope="module")
def vae_config(data_dir):
    # Only 4 of the 8 steps have full KL weight, and a likelihood that is not the default.
    return make_config(
        data_dir,
        model__latent_shape=LATENT_SHAPE,
        likelihood__name="bernoulli",
        kl__warmup_steps=4,
        optim__ema_decay=0.9,
        **SHORT,
    )


@pytest.fixture(scope="module")
def vae_workdir(vae_config, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "vae"
    assert training.train_and_evaluate(vae_config, workdir, evaluate_nothing) is None
    return workdir


@pytest.fixture(scope="module")
def frozen(vae_workdir) -> TrainedVAE:
    return vae_jax.load(vae_workdir)


def prior_config(data_dir, vae_workdir, name: str, **overrides):
    """Returns a configuration in which keys that the VAE's run decides have other values."""
    overrides = {"optim__learning_rate": 1e-2, **SHORT, **SMALL_PRIOR, **overrides}
    return make_config(data_dir, prior__name=name, vae_workdir=str(vae_workdir), **overrides)


@dataclasses.dataclass
class Run:
    """A run that was never stopped.

    Attributes:
      workdir: workdir of the run.
      start: parameters of the prior before its first step.
      state: state at the end of the run.
      vae: model loaded from the workdir, with the functions that training has compiled.
    """

    workdir: pathlib.Path
    start: dict
    state: TrainState
    vae: TrainedVAE


@pytest.fixture(scope="module")
def run(data_dir, vae_workdir, tmp_path_factory):
    """Returns a function from the name of a prior to its run, trained at the first call."""
    directory = tmp_path_factory.mktemp("priors")

    @functools.cache
    def train(name: str) -> Run:
        starts, vaes, start_task = [], [], PriorTask.start

        def record(*args):
            params = start_task(*args)
            starts.append(jax.device_get(params["prior"]))
            return params

        def validate(vae, split) -> Summary:
            vaes.append(vae)
            return evaluation.validate(vae, split)

        workdir = directory / name
        config = prior_config(data_dir, vae_workdir, name, train__diagnose=name == "diffusion")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PriorTask, "start", record)
            assert training.train_and_evaluate(config, workdir, validate) is None
        (start,), (validated,) = starts, vaes
        vae = vae_jax.load(workdir)
        vae._steps = validated._steps
        return Run(workdir, start, read_state(workdir), vae)

    return train


def read_state(workdir: pathlib.Path):
    return jax.device_get(conftest.read_state(workdir))


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def num_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# Training


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] * (n != "mixture")) for n in priors.names()[1:]],
)
def test_only_the_prior_is_trained(run, frozen, name):
    start, state = run(name).start, run(name).state
    assert int(state.step) == (1 if name == "ex_post_mixture" else NUM_STEPS)
    for params in (state.params, state.ema_params):
        assert set(params) == {"encoder", "decoder", "prior"}
        for part in ("encoder", "decoder"):
            assert_trees_equal(params[part], jax.device_get(frozen.params[part]))
    if name == "ex_post_mixture":  # fitted as a whole
        assert_trees_equal(state.params["prior"], start)
        assert_trees_equal(state.ema_params["prior"], start)
        return
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params["prior"], start)
    if "mean" in changed:
        assert not changed.pop("mean") and not changed.pop("std")
    assert all(jax.tree.leaves(changed)), changed


@pytest.mark.parametrize("name", LEARNED)
def test_optimiser_has_a_state_for_the_prior_only(run, name):
    state = run(name).state
    prior = state.params["prior"]
    # Two moments of each parameter, and a few counts.
    assert num_bytes(state.opt_state) <= 2 * num_bytes(prior) + 64
    assert len(jax.tree.leaves(state.opt_state)) <= 2 * len(jax.tree.leaves(prior)) + 8


@pytest.mark.parametrize("name", LEARNED)
def test_metrics_are_of_the_rate_alone_until_validation(run, name):
    records = read_metrics(run(name).workdir)
    logged = [r for r in records if "train/loss" in r]
    last = 1 if name == "ex_post_mixture" else NUM_STEPS
    assert [r["step"] for r in logged] == list(range(1, last + 1))
    for record in logged:
        assert np.isfinite(record["train/rate"]) and np.isfinite(record["train/loss"])
        assert not record.keys() & {"train/distortion", "train/elbo", "train/bits_per_dim"}
    (validation,) = [r for r in records if "validation/elbo" in r]
    assert validation["step"] == last
    np.testing.assert_allclose(
        validation["validation/elbo"],
        -(validation["validation/distortion"] + validation["validation/rate"]),
        rtol=1e-6,
    )


def test_diagnosis_of_a_prior_on_a_frozen_vae_is_written(run):
    """The bound of this prior is estimated, and it samples in steps."""
    workdir = run("diffusion").workdir
    assert (workdir / "diagnosis.md").exists() and (workdir / "diagnosis.png").exists()
    assert (workdir / "curves.png").exists()
    assert len(list((workdir / "images").iterdir())) == 2


@pytest.mark.parametrize("name", ["mixture"])
def test_stop_changes_no_bit_of_the_final_state(
    run, data_dir, vae_workdir, tmp_path, monkeypatch, name
):
    config = prior_config(data_dir, vae_workdir, name)

    with monkeypatch.context() as patch:
        raise_sigterm_after(patch, step=3)
        stopped = training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    assert stopped == signal.SIGTERM
    assert int(read_state(tmp_path / "run").step) == 3
    monkeypatch.setattr(PriorTask, "start", None)  # must not be called again
    assert training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing) is None
    assert_trees_equal(read_state(tmp_path / "run"), run(name).state)


@pytest.fixture
def encoded(monkeypatch) -> list[tuple[int, ...]]:
    """Records the shapes of the posteriors that are computed before training."""
    shapes, resident_rows = [], PriorTask.resident_rows

    def record(*args):
        rows = resident_rows(*args)
        shapes.extend(rows[name].mean.shape for name in rows if name == "posterior")
        return rows

    monkeypatch.setattr(PriorTask, "resident_rows", record)
    return shapes


def test_images_that_are_seen_again_are_encoded_once(data_dir, vae_workdir, tmp_path, encoded):
    states = []
    for resident in (True, False):
        config = prior_config(data_dir, vae_workdir, "mixture", data__resident=resident)
        with config.unlocked():
            config.train.num_steps = NUM_STEPS + 1  # of 8 images: one epoch and a batch
        workdir = tmp_path / str(resident)
        assert training.train_and_evaluate(config, workdir, evaluate_nothing) is None
        states.append(read_state(workdir))
    assert encoded == [(NUM_TRAIN, 1, *LATENT_SHAPE)]  # not if images are sent to the device
    # Adam divides by the root of the second moment: a rounding error may move a parameter with
    # hardly any gradient by the learning rate.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        *(state.params["prior"] for state in states),
    )


@pytest.mark.long
def test_stop_of_a_run_on_encoded_images_changes_no_bit(
    data_dir, vae_workdir, tmp_path, monkeypatch, encoded
):
    config = prior_config(data_dir, vae_workdir, "mixture", train__num_steps=NUM_STEPS + 1)
    assert training.train_and_evaluate(config, tmp_path / "whole", evaluate_nothing) is None
    with monkeypatch.context() as patch:
        raise_sigterm_after(patch, step=3)
        training.train_and_evaluate(config, tmp_path / "stopped", evaluate_nothing)
    assert training.train_and_evaluate(config, tmp_path / "stopped", evaluate_nothing) is None
    assert len(encoded) == 3
    assert_trees_equal(read_state(tmp_path / "stopped"), read_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("changes", "num_steps", "once"),
    [
        ({}, 9, True),
        ({}, 8, False),  # every image once
        ({"data__flip": True}, 16, False),  # and once mirrored
        ({"data__flip": True}, 17, True),
        ({"likelihood__name": "bernoulli", "likelihood__binarize": True}, 9, False),  # drawn anew
    ],
)
def test_when_images_are_encoded_once(data_dir, frozen, changes, num_steps, once):
    run = make_experiment(data_dir, vae_workdir="vae", prior__name="mixture", **changes)
    train = frozen.experiment.dataset.split("train")
    rows = run.task.resident_rows(train, frozen, num_steps * TINY["train.batch_size"])
    assert ("posterior" in rows) == once == ("x" not in rows)


def test_mirrored_images_are_encoded_as_such(data_dir, frozen):
    run = make_experiment(data_dir, vae_workdir="vae", prior__name="mixture", data__flip=True)
    train = frozen.experiment.dataset.split("train")
    images = train.take(np.arange(NUM_TRAIN))
    both = run.task.resident_rows(train, frozen, 1000)["posterior"]
    np.testing.assert_array_equal(both.mean[:, 0], frozen.encode(images).mean)
    np.testing.assert_array_equal(both.log_std[:, 1], frozen.encode(images[:, :, ::-1]).log_std)


# Keys from the VAE's run


def test_vae_decides_data_model_and_likelihood(run, vae_config, data_dir, vae_workdir):
    workdir = run("flow").workdir
    given = prior_config(data_dir, vae_workdir, "flow")
    assert given.model.latent_shape != LATENT_SHAPE
    assert given.likelihood.name != vae_config.likelihood.name
    config = configuration.load(workdir)
    for section in ("data", "model", "likelihood"):
        assert config[section].to_dict() == vae_config[section].to_dict()
    for section in ("prior", "optim", "train", "eval"):
        assert config[section].to_dict() == given[section].to_dict()
    assert given.kl.warmup_steps > 0 and config.kl.warmup_steps == 0  # its weight is not used
    assert config.vae_workdir == str(vae_workdir)


def test_data_dir_is_that_of_this_config(vae_workdir, tmp_path):
    given = prior_config(tmp_path, vae_workdir, "flow", data__resident=False, data__flip=True)
    config = configuration.complete(given)
    assert config.is_locked and config.data.is_locked
    assert (config.data.dir, config.data.resident) == (str(tmp_path), False)
    assert not config.data.flip  # the VAE's
    assert given.model.latent_shape == (4,)  # the given one is left alone


def test_config_without_a_frozen_vae_is_left_as_it_is(data_dir):
    config = make_config(data_dir, prior__name="flow")
    assert configuration.complete(config) is config


def test_workdir_without_a_vae_is_named(data_dir, tmp_path):
    config = prior_config(data_dir, tmp_path / "nothing", "flow")
    with pytest.raises(FileNotFoundError, match="nothing is not a training run"):
        training.train_and_evaluate(config, tmp_path / "run", evaluation.validate)
    assert not (tmp_path / "run").exists()


def test_prior_is_set_from_draws_of_the_posteriors_of_the_training_images(run, frozen):
    train = frozen.experiment.dataset.split("train")
    assert len(train) == NUM_TRAIN
    posterior = frozen.encode(train.take(np.arange(NUM_TRAIN)))
    mean = np.float64(posterior.mean).reshape(NUM_TRAIN, -1)
    std = np.exp(np.float64(posterior.log_std)).reshape(NUM_TRAIN, -1)
    start = run("flow").start
    # The expected mean over the noise, and the error of 64 draws.
    errors = np.sqrt((std**2).mean(axis=0) / NUM_TRAIN)
    assert np.all(np.abs(start["mean"] - mean.mean(axis=0)) < 5 * errors)
    variance = mean.var(axis=0) + (std**2).mean(axis=0)
    np.testing.assert_allclose(start["std"] ** 2, variance, rtol=5 * np.sqrt(2 / NUM_TRAIN))
    # All priors use the same draws, and so have the same moments.
    for name in ("mixture", "diffusion", "ex_post_mixture"):
        np.testing.assert_array_equal(run(name).start["mean"], start["mean"])
        np.testing.assert_array_equal(run(name).start["std"], start["std"])


def test_pseudo_inputs_start_as_training_images(run, frozen):
    train = frozen.experiment.dataset.split("train")
    clipped = np.clip(train.take(np.arange(NUM_TRAIN)) / 255.0, 0.01, 0.99)
    start = np.asarray(jax.nn.sigmoid(run("vamp").start["pseudo_inputs"]))
    distances = np.abs(start[:, None] - clipped).max(axis=(2, 3, 4))
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-4)


# Use


@pytest.mark.parametrize("name", LEARNED)
def test_distortion_is_that_of_the_vae_and_the_rate_that_of_the_prior(run, frozen, images, name):
    vae = run(name).vae
    actual, expected = vae.elbo_terms(images, KEY), frozen.elbo_terms(images, KEY)
    np.testing.assert_allclose(actual.distortion, expected.distortion, rtol=1e-6)
    np.testing.assert_allclose(actual.rate_per_dim, expected.rate_per_dim, rtol=1e-5)
    ids = np.arange(N)
    noise_keys = fold_in_each(KEY, ids)
    noise = jax.vmap(lambda key: jax.random.normal(key, LATENT_SHAPE))(noise_keys)
    z = np.asarray(vae.encode(images).reparameterise(noise))
    log_normal = -0.5 * (z.reshape(N, -1) ** 2 + np.log(2 * np.pi)).sum(axis=1)
    ratio = vae.log_prior(z, KEY) - log_normal
    np.testing.assert_allclose(actual.log_prior_ratio, ratio, rtol=1e-4, atol=1e-4)
    rate = expected.rate - ratio
    np.testing.assert_allclose(actual.elbo, -expected.distortion - rate, rtol=1e-5)
    assert np.all(np.abs(ratio) > 1e-3)  # the prior is not N(0, I)


def test_run_loads_after_the_vae_has_gone(run, vae_workdir, images, tmp_path):
    copy = shutil.copytree(run("vamp").workdir, tmp_path / "copy")
    moved = vae_workdir.rename(vae_workdir.with_name("moved"))
    try:
        vae = vae_jax.load(copy)
    finally:
        moved.rename(vae_workdir)
    np.testing.assert_array_equal(vae.elbo(images, KEY), run("vamp").vae.elbo(images, KEY))


def test_noise_maps_exist_for_some_priors_only(run, images):
    vae = run("diffusion").vae
    z = np.asarray(vae.encode(images).mean)
    np.testing.assert_allclose(vae.from_noise(vae.to_noise(z)), z, atol=0.02)
    with pytest.raises(ValueError, match="'vamp' has no map .*: use standard_normal, flow or diff"):
        run("vamp").vae.to_noise(z)


@pytest.mark.parametrize("name", ["vamp", "diffusion"])
def test_evaluation_reports_the_importance_weighted_bound_of_exact_priors_only(run, name):
    vae = run(name).vae
    metrics, grids, _ = evaluation.evaluate(vae, vae.experiment.dataset.split("test"))
    assert all(np.isfinite(metric.value) for metric in metrics.values())
    assert metrics["elbo"].num_images == NUM_TEST
    total = metrics["rate"].value + metrics["distortion"].value
    np.testing.assert_allclose(metrics["elbo"].value, -total, rtol=1e-6)
    assert ("iw_elbo" in metrics) == vae.prior_is_exact == (name != "diffusion")
    assert "closed form, plus log N(z; 0, I) minus" in metrics["rate"].protocol
    assert ("lower bound on log p(z)" in metrics["rate"].protocol) == (name == "diffusion")
    if name != "diffusion":
        assert metrics["iw_elbo"].value > metrics["elbo"].value
    assert len(np.unique(grids["samples"])) > 10
    assert ("interpolations_of_noise" in grids) == vae.has_noise_map == (name == "diffusion")


def test_importance_weighted_bound_with_an_estimated_prior_is_refused(run, images):
    with pytest.raises(ValueError, match="prior.name = 'diffusion' has no exact log p") as caught:
        run("diffusion").vae.iw_elbo(images, KEY, num_samples=2)
    assert "use the ELBO" in str(caught.value)


@pytest.mark.parametrize("name", LEARNED)
def test_samples_decode_draws_of_the_prior(run, frozen, name):
    vae = run(name).vae
    z_key, x_key = jax.random.split(KEY)
    num = grids.NUM_SAMPLES  # already compiled for this number
    z = vae.sample_prior(z_key, num)
    assert z.shape == (num, *LATENT_SHAPE)
    samples = vae.sample(KEY, num)
    np.testing.assert_array_equal(samples, vae.decode(z))
    np.testing.assert_array_equal(vae.sample(KEY, num, draw=True), vae.decode(z, x_key))
    assert np.abs(samples - frozen.sample(KEY, num)).max() > 1e-3


@pytest.mark.parametrize("name", LEARNED)
def test_samples_of_the_prior_have_its_moments_at_any_temperature(run, name):
    """Moments of draws are compared; at temperature 0 only the centres are left."""
    vae = run(name).vae
    if name == "diffusion":
        return  # its samples are not draws of the bound
    num = 2000
    for temperature in (1.0, 0.5):
        z = vae.sample_prior(KEY, num, temperature).reshape(num, -1).astype(np.float64)
        mean, variance = mixture_moments(vae, temperature)
        if mean is None:
            continue
        assert np.all(np.abs(z.mean(axis=0) - mean) < 5 * np.sqrt(variance / num))
        np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.2)
    other = vae.sample_prior(KEY, num, 0.0).reshape(num, -1)
    if name != "flow":
        assert len(np.unique(other, axis=0)) <= 3
    else:
        assert len(np.unique(other, axis=0)) == 1


def mixture_moments(vae: TrainedVAE, temperature: float):
    """Returns (mean, variance) of each dimension, [D]; None for a flow."""
    prior = jax.device_get(vae.params["prior"])
    if "pseudo_inputs" in prior:
        posterior = vae.encode(np.asarray(jax.nn.sigmoid(prior["pseudo_inputs"])))
        weights = np.full(3, 1 / 3)
        means, stds = (np.float64(a).reshape(3, -1) for a in (posterior.mean, posterior.std))
        variances = stds**2
        centre, scale = 0.0, 1.0
    elif "logits" not in prior.get("base", {}):
        return None, None
    else:
        base = prior["base"]
        weights, means = np.float64(jax.nn.softmax(base["logits"])), np.float64(base["means"])
        centre, scale = prior["mean"], prior["std"]
        if "log_stds" in base:
            variances = np.exp(2.0 * base["log_stds"])
        else:
            inverses = np.linalg.inv(np.float64(np.triu(base["precision_cholesky"])))
            variances = (inverses**2).sum(axis=1)
    mean = weights @ means
    variance = weights @ (temperature**2 * variances + means**2) - mean**2
    return centre + scale * mean, scale**2 * variance


@pytest.mark.parametrize("name", ["vamp", "diffusion"])
def test_log_prior_does_not_depend_on_the_batch(run, name):
    vae = run(name).vae
    z = np.random.default_rng(0).normal(size=(N, *LATENT_SHAPE))
    log_prior = vae.log_prior(z, KEY)
    assert log_prior.shape == (N,) and log_prior.dtype == np.float32
    plan = dataclasses.replace(vae.experiment.evaluation, batch_size=4)
    other = TrainedVAE(dataclasses.replace(vae.experiment, evaluation=plan), vae.params)
    np.testing.assert_allclose(other.log_prior(z, KEY), log_prior, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(vae.log_prior(z[:5], KEY), log_prior[:5], rtol=1e-5, atol=1e-4)
    if name == "diffusion":  # estimates that depend on the key and the position
        assert np.all(vae.log_prior(z, jax.random.key(6)) != log_prior)
        same = vae.log_prior(np.repeat(z[:1], N, axis=0), KEY)
        assert len(np.unique(same)) == N
    else:
        np.testing.assert_array_equal(vae.log_prior(z, jax.random.key(6)), log_prior)


def test_number_of_samples_need_not_be_a_multiple_of_the_devices(run):
    assert len(jax.local_devices()) == 2
    assert len(run("vamp").vae.sample_prior(KEY, 3)) == 3


# The ex-post mixture


def test_ex_post_mixture_has_one_step_whatever_is_configured(data_dir, vae_workdir):
    config = prior_config(data_dir, vae_workdir, "ex_post_mixture")
    config.optim.warmup_steps = 5
    complete = configuration.complete(config)
    experiment.validate(complete)
    c = complete.train
    names = ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
    assert [c[name] for name in names] == [1, 1, 1, 1]
    assert config.train.num_steps == NUM_STEPS


def test_config_file_of_the_run_needs_no_other(run):
    content = json.loads((run("vamp").workdir / "config.json").read_text())
    assert content["image_shape"] == list(IMAGE_SHAPE)
    assert content["config"]["model"]["latent_shape"] == list(LATENT_SHAPE)
