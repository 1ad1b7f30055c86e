"""Tests of vae_jax/experiment.py: parts are built once, and nobody can change a configuration."""

import collections
import dataclasses
import shutil

import pytest

from tests.conftest import IMAGE_SHAPE, make_config, make_experiment
from vae_jax import evaluation, experiment, inference, likelihoods, models, optim, training
from vae_jax.metrics import stored
from vae_jax.optim import schedules
from vae_jax.recording.writers import Summary

PARTS = (
    (likelihoods, "create_likelihood"),
    (models, "VAE"),
    (optim, "create_optimizer"),
    (schedules, "make_kl_schedule"),
    (schedules, "make_learning_rate_schedule"),
    (experiment, "_create_task"),
)
ONCE = {name: 1 for _, name in PARTS}


@pytest.fixture
def builds(monkeypatch) -> collections.Counter:
    """Counts the builds of each part."""
    counts = collections.Counter()

    def count(module, name):
        build = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return build(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    for module, name in PARTS:
        count(module, name)
    return counts


def test_start_of_training_builds_each_part_once(data_dir, tmp_path, monkeypatch, builds):
    config = make_config(
        data_dir, train__num_steps=2, train__eval_every_steps=2, train__diagnose=True
    )
    validated = []

    def validate(vae, split) -> Summary:
        validated.append(vae.step)
        return Summary({"elbo": -1.0, "rate": 0.0, "distortion": 1.0})

    assert training.train_and_evaluate(config, tmp_path, validate) is None
    assert validated == [2] and (tmp_path / "diagnosis.md").exists()
    assert builds == ONCE
    builds.clear()
    inference.load(tmp_path)
    assert builds == ONCE


def test_evaluation_of_a_run_builds_each_part_once(copied_workdir, tmp_path, builds):
    """And with its results elsewhere, nothing is written to the workdir."""
    before = {path: path.stat().st_mtime_ns for path in copied_workdir.rglob("*")}
    samples = evaluation.sample_quality.Options(num_samples=0)
    output = tmp_path / "new" / "results"
    options = evaluation.Options(
        num_failures=0, num_iw_images=2, samples=samples, output=str(output)
    )
    result = evaluation.run(copied_workdir, options)
    assert result.metrics["iw_elbo"].num_images == 2
    assert builds == ONCE
    assert result.directory == output and stored.read(output / "metrics.json") == result.metrics
    assert "](../../copied/curves.png)" in (output / "report.md").read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in copied_workdir.rglob("*")} == before


def test_experiment_cannot_be_changed(data_dir):
    run = make_experiment(data_dir)
    with pytest.raises(TypeError, match="does not support item assignment"):
        run.config["kl.weight"] = 2.0
    for part in (run, run.training, run.evaluation, run.dataset, run.task):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


def test_everything_that_needs_no_images_is_checked_before_they_are_read(tmp_path):
    """The directory of the dataset does not exist."""
    for key, value, message in (
        ("optim__name", "lion", "optim.name = 'lion' is unknown"),
        ("kl__schedule", "step", "kl.schedule = 'step' is unknown"),
        ("likelihood__name", "poisson", "likelihood.name = 'poisson' is unknown"),
        ("prior__name", "cauchy", "prior.name = 'cauchy' is unknown"),
        ("train__steps_per_call", 5, "train.steps_per_call = 5 must divide"),
    ):
        with pytest.raises(ValueError, match=message):
            experiment.build(make_config(tmp_path, **{key: value}))
    with pytest.raises(ValueError, match="dataset 'tiny': not one of"):
        experiment.build(make_config(tmp_path))


def test_shape_of_the_images_is_that_of_the_dataset(data_dir):
    assert experiment.build(make_config(data_dir)).image_shape == IMAGE_SHAPE


def test_choices_of_the_caller_replace_those_of_the_run(copied_workdir, data_dir, tmp_path):
    elsewhere = str(shutil.copytree(data_dir, tmp_path / "elsewhere"))
    vae = inference.load(copied_workdir, batch_size=4, data_dir=elsewhere, num_iw_images=3)
    run = vae.experiment
    assert run.dataset.data_dir == elsewhere and vae.batch_size == 4
    assert run.evaluation.num_iw_images == 3
    assert run.config["data.dir"] == elsewhere  # what a report shows
    assert inference.load(copied_workdir).experiment.dataset.data_dir == str(data_dir)
    with pytest.raises(ValueError, match="num_iw_images = -1: must be an integer, at least 0"):
        inference.load(copied_workdir, num_iw_images=-1)
