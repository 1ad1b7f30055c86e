"""kill -9 at any time, even while a checkpoint is written and before the old one is deleted."""

import collections
import os
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest

from tests import processes
from tests.faults.conftest import Runs, assert_ended_as, assert_no_traceback
from vae_jax.checkpoints import Checkpoints

# Long enough for twenty restarts; with one checkpoint kept, each save deletes the one before.
LONG = ("--config.train.num_steps=64", "--config.train.keep_checkpoints=1")
WRITING, COMMITTED, ANY_TIME = "while writing", "before the old one was deleted", "at any time"


class Victim:
    """A training process, and what its checkpoints look like from outside."""

    def __init__(self, runs: Runs, workdir: pathlib.Path, *flags: str):
        self._directory = workdir / "checkpoints"
        self.process = runs.start_training(workdir, *flags)

    def names(self) -> set[str]:
        return set(os.listdir(self._directory)) if self._directory.exists() else set()

    def stop(self) -> None:
        """Freezes the process, so that nothing happens before the kill."""
        self.process.send_signal(signal.SIGSTOP)

    def kill_at(self, moment: str, random: np.random.Generator) -> str | None:
        """Kills the process; returns at which moment, or None if it has ended before."""
        before, deadline = self.names(), time.monotonic() + random.uniform(0.0, 12.0)
        wait_for_save = int(random.integers(0, 4))  # not always the first one
        while self.process.poll() is None:
            names = self.names()
            if moment == WRITING and any("tmp" in name for name in names - before):
                if wait_for_save:
                    wait_for_save -= 1
                    while self.process.poll() is None and self.names() == names:
                        time.sleep(0.0002)
                else:
                    time.sleep(random.uniform(0.0, 0.03))
                    break
            finished = {name for name in names if name.isdigit()}
            if moment == COMMITTED and finished > {name for name in before if name.isdigit()}:
                break
            if moment == ANY_TIME and time.monotonic() > deadline:
                break
            before = names
            time.sleep(0.0002)
        if self.process.poll() is not None:
            return None
        self.stop()
        self._wait_until_stopped()
        names = self.names()
        self.process.kill()
        if any("tmp" in name for name in names):
            return WRITING
        if before and {n for n in names if n.isdigit()} > {n for n in before if n.isdigit()}:
            return COMMITTED
        return ANY_TIME

    def _wait_until_stopped(self) -> None:
        path = pathlib.Path(f"/proc/{self.process.pid}/stat")
        while (
            path.exists()
            and path.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "TZ"
        ):
            time.sleep(0.0005)


def kill_and_resume(runs, workdir, undisturbed, moments, random, *flags) -> collections.Counter:
    """Kills the processes of a run one after another; starts a new run when one has ended.

    Returns the number of kills at each moment.
    """
    killed, moments = collections.Counter(), list(moments)
    while moments:
        expected = max(Checkpoints(workdir).steps(), default=None)
        victim = Victim(runs, workdir, *flags)
        moment = victim.kill_at(moments[0], random)
        completed = processes.finish(victim.process)
        assert_resumed_at(completed, expected)
        if moment is None:
            assert completed.returncode == 0, completed.stderr
            assert_ended_as(workdir, undisturbed, checkpoints_may_be_left=True)
            shutil.rmtree(workdir)
        else:
            assert completed.returncode == -signal.SIGKILL
            killed[moment] += 1
            moments.pop(0)
    expected = max(Checkpoints(workdir).steps(), default=None)
    completed = runs.train(workdir, *flags)
    assert completed.returncode == 0, completed.stderr
    assert_resumed_at(completed, expected)
    # A process may have been killed between its last save and the deletion of the one before.
    assert_ended_as(workdir, undisturbed, checkpoints_may_be_left=True)
    print(dict(killed))
    return killed


def assert_resumed_at(completed, step: int | None) -> None:
    """Asserts that it resumed at `step`, if it came so far."""
    assert_no_traceback(completed)
    assert "damaged" not in completed.stderr
    if "step " in completed.stderr and step is not None:
        assert f"Resuming from step {step}." in completed.stderr or "already" in completed.stderr


@pytest.fixture(scope="module")
def undisturbed_long(runs, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    completed = runs.train(workdir, *LONG)
    assert completed.returncode == 0, completed.stderr
    return workdir


@pytest.mark.long
def test_kill_while_a_checkpoint_is_written(runs, undisturbed, tmp_path):
    random = np.random.default_rng(1)
    killed = kill_and_resume(runs, tmp_path / "run", undisturbed, [WRITING] * 2, random)
    assert killed.total() == 2


@pytest.mark.long
def test_twenty_kills(runs, undisturbed_long, tmp_path):
    moments = [WRITING] * 8 + [COMMITTED] * 6 + [ANY_TIME] * 6
    random = np.random.default_rng(0)
    random.shuffle(moments)
    killed = kill_and_resume(runs, tmp_path / "run", undisturbed_long, moments, random, *LONG)
    assert killed.total() == 20
    assert killed[WRITING] >= 4 and killed[COMMITTED] >= 1


# Any moment of preparation, training and evaluation

# Prepares a dataset of named arrays whose images arrive slowly.
PREPARE = """
import pathlib, sys, time
import numpy as np
from tests.conftest import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, smooth_images
from vae_jax.data import sources

class Slowly(list):
    def __getitems__(self, rows):
        time.sleep(0.2)
        return [self[row] for row in rows]

class Builder:
    def __init__(self, data_dir):
        pass
    def download_and_prepare(self, file_format):
        pass
    def as_data_source(self):
        images = {"train": smooth_images(NUM_TRAIN + NUM_VALIDATION),
                  "test": smooth_images(NUM_TEST, seed=1)}
        return {name: Slowly({"image": x} for x in split) for name, split in images.items()}

class Tiny(sources.Source):
    def builder(self):
        return Builder

sources.preparation.CHUNK_SIZE = 16
directory = pathlib.Path(sys.argv[1]) / "tiny"
sources.prepare_arrays(Tiny("tiny"), directory, directory.parent / "tfds")
"""


class Stages:
    """Prepares, trains and evaluates in `directory`; each stage is killed at any moment.

    Args:
      runs: starts the commands.
      directory: receives data/ and run/.
    """

    def __init__(self, runs: Runs, directory: pathlib.Path):
        self._runs, self.data, self.workdir = runs, directory / "data", directory / "run"
        self._prepare = directory / "prepare.py"
        self._prepare.write_text(PREPARE, encoding="utf-8")
        self.seconds = {stage: self._finish(stage) for stage in STAGES}
        self._evaluation = self.evaluation()
        assert self._evaluation

    def start(self, stage: str):
        if stage == "prepare":
            return self._runs.start(self._prepare, self.data)
        if stage == "train":
            return self._runs.start_training(self.workdir, data_dir=self.data)
        arguments = (f"--workdir={self.workdir}", "--num_samples=0", "--num_failures=2")
        return self._runs.start("evaluate.py", *arguments)

    def _finish(self, stage: str) -> float:
        begin = time.monotonic()
        completed = processes.finish(self.start(stage))
        assert completed.returncode == 0, completed.stderr
        assert_no_traceback(completed)
        return time.monotonic() - begin

    def evaluation(self) -> dict[str, bytes] | None:
        """Returns the files of the evaluation without its directory, or None if there is none."""
        directory = self.workdir / "eval"
        if not directory.exists():
            return None
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        return {str(path.relative_to(directory)): path.read_bytes() for path in paths}

    def undo(self, stage: str) -> None:
        """Removes what a stage has made, so that it has work to do."""
        if stage == "prepare":
            shutil.rmtree(self.data)
        elif stage == "train":
            shutil.rmtree(self.workdir / "checkpoints")

    def kill(self, stage: str, seconds: float) -> bool:
        """Starts a stage and kills it after a time; returns whether it had not ended before."""
        process = self.start(stage)
        time.sleep(seconds)
        was_running = process.poll() is None
        process.kill()
        completed = processes.finish(process)
        assert_no_traceback(completed)
        return was_running

    def check(self, stage: str, undisturbed: pathlib.Path, images: np.ndarray) -> None:
        """Checks what a kill has left, and that the stage then ends as if nothing had happened."""
        path = self.data / "tiny" / "train_images.npy"
        if stage == "prepare" and path.parent.exists():
            np.testing.assert_array_equal(np.load(path), images)
        if stage == "evaluate":  # the old one, or the same written anew
            assert self.evaluation() == self._evaluation
        self._finish(stage)
        if stage == "prepare":
            np.testing.assert_array_equal(np.load(path), images)
            left = {p.name for p in self.data.iterdir()} - {".tiny.lock"}
            assert left == {"tiny"}
        elif stage == "train":
            assert_ended_as(self.workdir, undisturbed, checkpoints_may_be_left=True)
        else:
            assert self.evaluation() == self._evaluation
            assert not [p for p in self.workdir.iterdir() if p.name.startswith(".eval")]


STAGES = ("prepare", "train", "evaluate")


@pytest.mark.long
def test_twenty_kills_at_any_moment_of_preparation_training_and_evaluation(
    runs, undisturbed, tmp_path
):
    random, stages = np.random.default_rng(2), Stages(runs, tmp_path)
    images = np.load(tmp_path / "data" / "tiny" / "train_images.npy")
    killed = collections.Counter()
    while killed.total() < 20:
        stage = STAGES[killed.total() % len(STAGES)]
        stages.undo(stage)
        if stages.kill(stage, random.uniform(0.0, stages.seconds[stage])):
            killed[stage] += 1
        stages.check(stage, undisturbed, images)
    print(dict(killed))
    assert min(killed[stage] for stage in STAGES) >= 6
