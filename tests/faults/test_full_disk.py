"""A disk that fills up during training: a small tmpfs in a namespace of its own.

If a checkpoint does not fit, the run logs a warning and continues, because the disk may have room
at the next one. If the last checkpoint or even a record does not fit, the run ends with one message
and resumes as if nothing had happened.
"""

import errno
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import REPOSITORY, TINY
from tests.faults.conftest import (
    assert_ended_as,
    assert_no_traceback,
    assert_one_line,
    read_records,
)
from vae_jax.checkpoints import DIRECTORY, CheckpointNotSavedError, Checkpoints
from vae_jax.checkpoints.state import TrainState
from vae_jax.recording.writers import METRICS_FILE, MetricWriter, Summary, read_metrics

NUM_STEPS = TINY["train.num_steps"]
PAGE = 4096  # the unit in which a tmpfs counts
SIZE = 800 * PAGE
FITS_RECORDS = 12 * PAGE  # but not a checkpoint

# Fills the disk up to `leaving` bytes before the checkpoint of a step is saved.
FILL = """
import os, pathlib, signal
from vae_jax.checkpoints import Checkpoints
save, full_from, leaving, free_from = Checkpoints.save, {full_from}, {leaving}, {free_from}
ballast = pathlib.Path({disk!r}) / "ballast"

def save_on_full_disk(self, state):
    step = int(state.step)
    self._await_save()  # a save in the background is of an earlier step
    if step == full_from:
        with ballast.open("wb", buffering=0) as file:
            free = os.statvfs(ballast.parent)
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_bsize - leaving, 1))
    if step == free_from:
        ballast.unlink()
    save(self, state)

Checkpoints.save = save_on_full_disk
{more}
"""


class Disk:
    """A tmpfs that only processes in its namespace see; this process reads it through /proc."""

    def __init__(self, mount_point: pathlib.Path):
        command = f"mount -t tmpfs -o size={SIZE} none {mount_point} && echo ready && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.is_there = self._holder.stdout.readline() == "ready\n"
        self.path = mount_point
        self.seen_from_here = pathlib.Path(f"/proc/{self._holder.pid}/root{mount_point}")
        options = ("-t", self._holder.pid, "-U", "-m", "--preserve-credentials")
        self.prefix = ("nsenter", *options, "sh", "-c", f'cd {REPOSITORY} && exec "$@"', "sh")

    def close(self) -> str:
        return self._holder.communicate()[1]


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("a small disk is made with unshare and nsenter (util-linux)")
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    if not disk.is_there:
        pytest.skip(f"no tmpfs can be mounted in a namespace here: {disk.close().strip()}")
    yield disk
    disk.close()


def train_on(runs, disk, full_from=-1, leaving=0, free_from=-1, more="", **options):
    fault = FILL.format(
        full_from=full_from,
        leaving=leaving,
        free_from=free_from,
        disk=str(disk.path),
        more=more,
    )
    return runs.train(disk.path / "run", fault=fault, prefix=disk.prefix, **options)


def assert_resumes_as_undisturbed(runs, disk, undisturbed) -> None:
    (disk.seen_from_here / "ballast").unlink()
    completed = train_on(runs, disk)
    assert completed.returncode == 0, completed.stderr
    assert "damaged" not in completed.stderr
    assert_ended_as(disk.seen_from_here / "run", undisturbed)


def assert_last_checkpoint(disk, step: int) -> None:
    """Asserts that the last checkpoint is of `step`, without partial files beside it."""
    names = [p.name for p in (disk.seen_from_here / "run" / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in names) and max(map(int, names)) == step


@pytest.mark.long
@pytest.mark.parametrize("leaving", [0, FITS_RECORDS])
def test_run_goes_on_over_checkpoints_that_do_not_fit(runs, disk, undisturbed, leaving):
    completed = train_on(runs, disk, full_from=10, leaving=leaving, free_from=14)
    assert completed.returncode == 0, completed.stderr
    assert_no_traceback(completed)
    warnings = [line for line in completed.stderr.splitlines() if "could not be saved" in line]
    assert len(warnings) == 2  # of the steps 10 and 12
    for step, warning in zip((10, 12), warnings, strict=True):
        assert f"Checkpoint {step} could not be saved in {disk.path}" in warning
        assert "(No space left on device); the last good one is 8" in warning
    assert_ended_as(disk.seen_from_here / "run", undisturbed)


@pytest.mark.long
def test_last_checkpoint_that_does_not_fit_is_an_error(runs, disk, undisturbed):
    completed = train_on(runs, disk, full_from=NUM_STEPS, leaving=FITS_RECORDS)
    assert_one_line(
        completed,
        "train.py",
        f"Checkpoint {NUM_STEPS} could not be saved",
        "No space left on device",
        f"the last good one is {NUM_STEPS - 2}",
        "run the same command again",
    )
    assert completed.stderr.count("could not be saved") == 1
    assert_last_checkpoint(disk, NUM_STEPS - 2)
    assert_resumes_as_undisturbed(runs, disk, undisturbed)


@pytest.mark.long
def test_stopped_run_whose_checkpoint_does_not_fit_says_so(runs, disk, undisturbed):
    stop = """
def stop_and_save(self, state):
    if int(state.step) == 10:
        os.kill(os.getpid(), signal.SIGTERM)
    save_on_full_disk(self, state)
Checkpoints.save = stop_and_save
"""
    completed = train_on(runs, disk, full_from=11, leaving=FITS_RECORDS, more=stop)
    assert_one_line(completed, "train.py", "Checkpoint 11 could not", "the last good one is 10")
    assert "Stopped by" not in completed.stderr
    assert_last_checkpoint(disk, 10)
    assert_resumes_as_undisturbed(runs, disk, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("tensorflow", [False, True], ids=["jsonl", "tensorboard"])
def test_records_that_do_not_fit_end_the_run(runs, disk, undisturbed, tensorflow):
    completed = train_on(runs, disk, full_from=10, tensorflow=tensorflow)
    assert_one_line(completed, "train.py", "No space left on device", "Make room there")
    assert_last_checkpoint(disk, 8)
    records = read_records(disk.seen_from_here / "run")
    expected = read_records(undisturbed)
    assert 10 < records[-1]["step"] < NUM_STEPS
    assert records == expected[: len(records)]
    text = (disk.seen_from_here / "run" / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    assert_resumes_as_undisturbed(runs, disk, undisturbed)


# In this process


class FullDisk:
    """A file that takes `room` more bytes."""

    def __init__(self, file, room: int):
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self._room])
        self._room -= written
        return written

    def __getattr__(self, name: str):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 17, 30])
def test_record_that_does_not_fit_leaves_no_part_of_it(tmp_path, monkeypatch, room):
    with MetricWriter(tmp_path, first_step=0) as writer:
        writer.write(1, "train", Summary({"loss": 1.0}))
        file = writer._file
        writer._file = FullDisk(file, room)
        with pytest.raises(OSError, match="No space left"):
            writer.write(2, "train", Summary({"loss": 2.0}))
        writer._file = file
        writer.write(3, "train", Summary({"loss": 3.0}))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2


def make_state(step: int) -> TrainState:
    params = {"kernel": jnp.full((3, 2), step, jnp.float32)}
    return TrainState(jnp.int32(step), params, params, params)


@pytest.fixture
def refused(tmp_path) -> Iterator[Checkpoints]:
    """Checkpoints of which the first is saved and the second did not fit."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1))
        checkpoints.require_saved()
        (tmp_path / DIRECTORY / "2.orbax-checkpoint-tmp").write_text("in the way")
        checkpoints._manager.save = fail_for_space
        checkpoints.save(make_state(2))
        yield checkpoints


def fail_for_space(*_, **__):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing 5 bytes [os_error_code='28']")


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "vae_jax.checkpoints.store"]


def test_failed_save_is_reported_once_in_the_words_of_the_system(refused, tmp_path, caplog):
    refused.report_failed_save()
    refused.report_failed_save()
    refused.save(make_state(3))
    refused.require_saved()
    assert warnings(caplog) == [
        f"Checkpoint 2 could not be saved in {tmp_path / DIRECTORY} (No space left on device); "
        "the last good one is 1. Saving is tried again at the next checkpoint."
    ]
    assert refused.steps() == [3]


def test_last_save_that_failed_is_an_error_and_no_warning(refused, caplog):
    for _ in range(2):
        with pytest.raises(CheckpointNotSavedError, match="the last good one is 1. Put that right"):
            refused.require_saved()
    refused.close()
    assert warnings(caplog) == []


def test_message_says_that_a_run_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints._manager.save = fail_for_space
        checkpoints.save(make_state(1))
        with pytest.raises(CheckpointNotSavedError, match="; there is none yet. Put that right"):
            checkpoints.require_saved()


def test_same_step_can_be_saved_again(refused):
    refused.save(make_state(2))
    refused.require_saved()
    np.testing.assert_array_equal(refused.restore(make_state(0)).params["kernel"], 2.0)


def test_failed_save_is_reported_at_the_end_at_the_latest(refused, caplog):
    refused.close()
    assert len(warnings(caplog)) == 1


def test_saved_checkpoint_is_not_called_lost(tmp_path, caplog):
    """Only the previous checkpoint could not be removed."""

    def save_and_fail(*arguments, **options):
        save(*arguments, **options)
        wait()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "1")

    with Checkpoints(tmp_path) as checkpoints:
        manager = checkpoints._manager
        save, wait, manager.save = manager.save, manager.wait_until_finished, save_and_fail
        checkpoints.save(make_state(1))
        checkpoints.require_saved()
    assert warnings(caplog) == [
        "Checkpoint 1 was saved, but then an error occurred: Permission denied."
    ]
    assert checkpoints.steps() == [1]
