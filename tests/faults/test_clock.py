"""A clock that goes back a day, during a run and between two, and files from the future."""

import os
import pathlib
import re
import shutil
import time

import pytest

from tests.faults.conftest import assert_ended_as, assert_no_traceback
from vae_jax.recording.writers import read_metrics

DAY = 86_400
# Runs before any other code imports time.time. The clock goes back at every hundredth call.
JUMPING = f"""
import itertools, time
clock, looks = time.time, itertools.count()
time.time = lambda: clock() - {DAY} * (next(looks) // 100)
"""
A_DAY_BEFORE = f"import time; clock = time.time; time.time = lambda: clock() - {DAY}"
STOP_AT_10 = """
import os, signal
from vae_jax.checkpoints import Checkpoints
save = Checkpoints.save

def stop_and_save(self, state):
    if int(state.step) == 10:
        os.kill(os.getpid(), signal.SIGTERM)
    save(self, state)

Checkpoints.save = stop_and_save
"""


def assert_no_negative_speed(workdir: pathlib.Path, *logs: str) -> None:
    records = [r for r in read_metrics(workdir) if "train/images_per_second" in r]
    assert records and all(r["train/images_per_second"] > 0 for r in records)
    for log in logs:
        assert not re.search(r"-\d[\d.]* (images/s|s, compilation)", log)


@pytest.mark.long
def test_clock_that_goes_back_during_a_run(runs, undisturbed, tmp_path):
    completed = runs.train(tmp_path / "run", fault=JUMPING)
    assert completed.returncode == 0, completed.stderr
    assert_no_traceback(completed)
    assert_ended_as(tmp_path / "run", undisturbed)
    assert_no_negative_speed(tmp_path / "run", completed.stderr)


@pytest.mark.long
@pytest.mark.parametrize("files_from_the_future", [False, True])
def test_clock_that_goes_back_between_two_runs(runs, undisturbed, tmp_path, files_from_the_future):
    workdir = tmp_path / "run"
    stopped = runs.train(workdir, fault=STOP_AT_10)
    assert "Stopped by SIGTERM at step 11" in stopped.stderr
    if files_from_the_future:
        future = time.time() + DAY
        for path in workdir.rglob("*"):
            os.utime(path, (future, future))
    completed = runs.train(workdir, fault=A_DAY_BEFORE)
    assert completed.returncode == 0, completed.stderr
    assert_no_traceback(completed)
    assert "Resuming from step 11." in completed.stderr
    assert_ended_as(workdir, undisturbed)
    assert_no_negative_speed(workdir, stopped.stderr, completed.stderr)


def test_newest_checkpoint_is_that_of_the_highest_step(runs, undisturbed, tmp_path):
    """The modification times of the files do not matter."""
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    for age, step in enumerate(steps):  # the highest step is the oldest file
        for path in [p := workdir / "checkpoints" / str(step), *p.rglob("*")]:
            os.utime(path, (time.time() - age * DAY,) * 2)
    completed = runs.train(workdir)
    assert completed.returncode == 0
    assert f"already trained to step {steps[-1]}" in completed.stderr
