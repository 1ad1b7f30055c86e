"""Tests of vae_jax/training/autotune.py."""

import logging

import jax
import pytest

from tests.conftest import NUM_TRAIN, config_flags, make_experiment, run_python
from vae_jax import config as configuration
from vae_jax.runtime import sharding
from vae_jax.training import autotune


@pytest.mark.parametrize(
    ("speeds", "chosen", "tried"),
    [
        ({16: 10, 32: 20, 64: 40, 128: 41, 256: 41.5, 512: 99}, 64, [16, 32, 64, 128, 256]),
        ({16: 10, 32: 9, 64: 8, 128: 7}, 16, [16, 32, 64]),
        ({16: 10, 32: 20, 64: 40}, 64, [16, 32, 64]),
        ({16: 96, 32: 100, 64: 99}, 16, [16, 32, 64]),  # nearly as fast
        ({16: 10}, 16, [16]),
    ],
)
def test_smallest_candidate_nearly_as_fast_as_any_is_chosen(speeds, chosen, tried, caplog):
    caplog.set_level(logging.INFO, logger="vae_jax")
    measured = []
    assert autotune.choose("key", speeds, lambda n: measured.append(n) or speeds[n]) == chosen
    assert measured == tried
    for n in tried:
        assert f"key = {n}: {speeds[n]:.0f} images/s" in caplog.text
    assert f"key = {chosen} is used." in caplog.text


def out_of_memory(limit: int):
    def measure(n: int) -> float:
        if n > limit:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return float(n)

    return measure


def test_candidate_that_does_not_fit_ends_the_search(caplog):
    caplog.set_level(logging.INFO, logger="vae_jax")
    assert autotune.choose("key", [16, 32, 64, 128], out_of_memory(32)) == 32
    assert "key = 64: does not fit into memory" in caplog.text and "128" not in caplog.text


def test_other_errors_are_raised_and_so_is_that_of_no_fitting_candidate():
    def fail(n: int) -> float:
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    for measure in (fail, out_of_memory(8)):
        with pytest.raises(jax.errors.JaxRuntimeError):
            autotune.choose("key", [16, 32], measure)


@pytest.mark.parametrize(
    ("num_images", "divisor", "sizes"),
    [
        (100, 1, [16, 32, 64]),
        (100_000, 3, [18, 36, 72, 144, 288, 576, 1152, 2304]),
        (10, 4, [4]),
        (5000, 32, [32, 64, 128, 256, 512, 1024, 2048, 4096]),
    ],
)
def test_candidates(num_images, divisor, sizes):
    assert autotune.batch_sizes(num_images, divisor) == sizes


def test_numbers_take_the_place_of_auto(data_dir, monkeypatch):
    speeds = {(16, 1): 10.0, (32, 1): 20.0, (64, 1): 20.5}
    monkeypatch.setattr(autotune, "_measure", lambda _, __, *numbers: speeds[numbers])
    run = make_experiment(data_dir, train__batch_size="auto")
    resolved = autotune.resolve(run, NUM_TRAIN, sharding.create_mesh())
    assert (resolved.training.batch_size, resolved.training.steps_per_call) == (32, 1)
    assert resolved.config["train.batch_size"] == 32 and run.config["train.batch_size"] == "auto"


@pytest.mark.long
def test_resumed_run_keeps_the_batch_size_it_found(data_dir, tmp_path):
    steps = {"num_steps": 2, "eval_every_steps": 2, "checkpoint_every_steps": 1}
    flags = config_flags(
        data_dir,
        train__batch_size="auto",
        **{f"train__{key}": value for key, value in steps.items()},
    )
    command = ["train.py", f"--workdir={tmp_path / 'run'}", *flags]
    first = run_python(*command)
    assert first.returncode == 0, first.stderr
    assert "train.batch_size = 16: " in first.stderr and "images/s" in first.stderr
    found = configuration.load(tmp_path / "run").train.batch_size
    assert found in (16, 32, 64) and f"train.batch_size = {found} is used." in first.stderr
    second = run_python(*command)
    assert second.returncode == 0, second.stderr
    assert "is already trained to step 2" in second.stderr and "images/s" not in second.stderr
