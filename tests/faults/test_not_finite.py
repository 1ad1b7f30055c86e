"""NaN in the images: on their way to the device (at some steps, or from one on) or in a file."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.conftest import read_state
from tests.faults.conftest import assert_no_traceback, assert_one_line, read_records
from vae_jax.checkpoints import Checkpoints

# Puts a NaN into one pixel of the float images at some steps, counted from 1.
PLANT = """
import jax.numpy as jnp
from vae_jax.tasks import to_unit_interval
from vae_jax.training import steps
make_train_step = steps.make_train_step

def make(*arguments, **options):
    train_step = make_train_step(*arguments, **options)

    def step_with_nan(state, rows, key):
        step, x = state.step + 1, to_unit_interval(rows["x"])
        bad = {condition}
        x = x.at[0, 3, 4, 0].set(jnp.where(bad, jnp.nan, x[0, 3, 4, 0]))
        return train_step(state, {{**rows, "x": x}}, key)

    return step_with_nan

steps.make_train_step = make
"""
BAD_STEPS = (5, 11, 12, 20)
LIMIT = "--config.optim.max_skipped_in_a_row=3"


def plant(condition: str) -> str:
    return PLANT.format(condition=condition)


@pytest.fixture(scope="module")
def some_bad(runs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "some_bad"
    condition = f"jnp.isin(step, jnp.array({BAD_STEPS}))"
    return workdir, runs.train(workdir, LIMIT, fault=plant(condition))


def test_updates_of_some_bad_batches_are_skipped_and_counted(some_bad):
    workdir, completed = some_bad
    assert completed.returncode == 0, completed.stderr
    assert_no_traceback(completed)
    records = {r["step"]: r for r in read_records(workdir) if "train/loss" in r}
    assert len(records) == 24
    for step, record in records.items():
        assert record["train/skipped_updates"] == sum(bad <= step for bad in BAD_STEPS)
        assert record["train/skipped_in_a_row"] == {12: 2}.get(step, int(step in BAD_STEPS))
        assert np.isfinite(record["train/loss"]) == (step not in BAD_STEPS)
        assert np.isfinite(record["train/param_norm"])
        assert (record["train/update_norm"] == 0) == (step in BAD_STEPS)


def test_parameters_stay_finite_and_the_bound_too(some_bad):
    workdir, _ = some_bad
    state = read_state(workdir)
    assert int(state.step) == 24
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    validation = [r["validation/elbo"] for r in read_records(workdir) if "validation/elbo" in r]
    assert len(validation) == 3 and np.isfinite(validation).all() and validation[-1] > validation[0]


@pytest.mark.long
def test_endless_bad_batches_end_the_run(runs, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    completed = runs.train(workdir, LIMIT, fault=plant("step >= 12"))
    assert_one_line(
        completed,
        "train.py",
        "Steps 12 to 14: 3 updates in a row were skipped",
        "The first non-finite term is the distortion.",
        "in a new --workdir",
        "the checkpoints before these steps are intact",
    )
    # Checkpoint 12 has the parameters of step 11, because the update was skipped.
    steps = Checkpoints(workdir).steps()
    assert steps[-1] == 12
    for step in steps:
        state = read_state(workdir, step)
        assert int(state.step) == step
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    # Without the fault the same command continues: the data were at fault, not the run.
    resumed = runs.train(workdir, LIMIT)
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resuming from step {steps[-1]}." in resumed.stderr
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(read_state(workdir)))


@pytest.mark.parametrize("nan", [False, True])
def test_images_as_floats_are_refused(runs, data_dir, tmp_path, nan):
    directory: pathlib.Path = shutil.copytree(data_dir, tmp_path / "data")
    path = directory / "tiny" / "train_images.npy"
    images = np.load(path) / np.float32(255)
    if nan:
        images[3, 2, 1, 0] = np.nan
    np.save(path, images)
    completed = runs.train(tmp_path / "run", data_dir=directory)
    assert_one_line(completed, "train.py", f"{path}: dtype float32, must be uint8", "np.round")
    assert not (tmp_path / "run" / "config.json").exists()
