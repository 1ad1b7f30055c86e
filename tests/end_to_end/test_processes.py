"""Tests of processes that train together over loopback, with gloo's collectives."""

import dataclasses
import json
import pathlib
import shutil
import signal
import socket
import sys
import time

import jax
import numpy as np
import pytest

from tests import processes
from tests.conftest import (
    NUM_TRAIN,
    REPOSITORY,
    TINY,
    config_flags,
    read_state,
    run_python,
    user_environment,
)
from vae_jax.data import make_batch_indices
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import distributed

NUM_STEPS, EVAL_EVERY = TINY["train.num_steps"], TINY["train.eval_every_steps"]

# Runs train.py, records which training images this process reads, and sends a chosen process a
# signal at a chosen step.
RUNNER = """
import json, os, pathlib, runpy, sys
import jax
from vae_jax import data, evaluation
record, victim, step, number = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
take, validate = data.Split.take, evaluation.validate
state = {"evaluations": 0}

def take_and_record(self, positions):
    if self.name == "train" and not isinstance(positions, slice):  # not all of them at once
        with record.open("a") as file:
            file.write(json.dumps(positions.tolist()) + chr(10))
    return take(self, positions)

def signal_and_validate(vae, split):
    if vae.step == step and jax.process_index() == victim:
        os.kill(os.getpid(), number)
    return validate(vae, split)

data.Split.take, evaluation.validate = take_and_record, signal_and_validate
sys.argv = ["train.py", *sys.argv[5:]]
runpy.run_path("train.py", run_name="__main__")
"""


@dataclasses.dataclass
class Ended:
    """A process that has ended."""

    returncode: int
    stderr: str


def train(
    workdir: pathlib.Path,
    flags: list[str],
    num_processes: int,
    victim: int = -1,
    step: int = -1,
    number: int = signal.SIGTERM,
) -> list[Ended]:
    """Runs train.py in several processes with one device each and waits for all of them."""
    workdir.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started, logs = [], []
    for i in range(num_processes):
        record = workdir.parent / f"{workdir.name}_reads_{i}.jsonl"
        command = [sys.executable, "-c", RUNNER, record, victim, step, int(number)]
        command += [f"--workdir={workdir}", *flags]
        if num_processes > 1:
            command += [f"--coordinator_address=127.0.0.1:{port}", f"--process_id={i}"]
            command += [f"--num_processes={num_processes}"]
        logs.append(workdir.parent / f"{workdir.name}_stderr_{i}.txt")
        with logs[-1].open("w") as stderr:
            options = {"cwd": REPOSITORY, "env": user_environment(), "stderr": stderr}
            started.append(processes.start(command, **options))
    progress = processes.Progress(started)
    while any(each.poll() is None for each in started):
        progress.check(logs)
        time.sleep(0.2)
    pairs = zip(started, logs, strict=True)
    return [Ended(each.returncode, log.read_text()) for each, log in pairs]


def assert_same_state(workdir, expected_workdir) -> None:
    """Asserts equality up to rounding: sums over a batch have another order."""
    state, expected = read_state(workdir), read_state(expected_workdir)
    assert int(state.step) == int(expected.step) == NUM_STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        state.ema_params,
        expected.ema_params,
    )


@pytest.fixture(scope="module")
def two(data_dir, tmp_path_factory) -> tuple[pathlib.Path, list[Ended]]:
    """The workdir of a run by two processes, and both processes."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    flags = config_flags(data_dir, train__diagnose=True)  # as the run that it is compared with
    return workdir, train(workdir, flags, num_processes=2)


def test_two_processes_train_like_one(two, trained_workdir):
    workdir, ended = two
    assert [e.returncode for e in ended] == [0, 0], [e.stderr for e in ended]
    records, expected = read_metrics(workdir), read_metrics(trained_workdir)
    assert [r["step"] for r in records] == [r["step"] for r in expected]
    for record, one in zip(records, expected, strict=True):
        for name in ("train/loss", "train/elbo", "train/rate", "train/grad_norm"):
            if name in one:
                np.testing.assert_allclose(record[name], one[name], rtol=1e-4, err_msg=name)
        if "validation/elbo" in one:
            np.testing.assert_allclose(record["validation/elbo"], one["validation/elbo"], rtol=1e-5)
    assert_same_state(workdir, trained_workdir)


def test_only_process_0_writes_and_logs(two, trained_workdir):
    workdir, (first, second) = two

    def files(directory):
        paths = (p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
        # Files of a checkpoint are left to orbax: both processes write a part of them.
        return {str(p) for p in paths if p.parts[0] not in ("checkpoints", "tensorboard")}

    assert files(workdir) == files(trained_workdir)
    assert json.loads((workdir / "config.json").read_text())["provenance"]["num_processes"] == 2
    assert f"step {NUM_STEPS} of {NUM_STEPS}" in first.stderr
    assert "Process 1 of 2" in second.stderr and "step " not in second.stderr


def test_each_process_reads_only_its_part_of_each_batch(two):
    workdir, _ = two
    reads = []
    for i in range(2):
        lines = (workdir.parent / f"{workdir.name}_reads_{i}.jsonl").read_text().splitlines()
        batches = [np.ravel(json.loads(line)) for line in lines]
        reads.append([b for b in batches if len(b) == TINY["train.batch_size"] // 2][:NUM_STEPS])
    assert [len(r) for r in reads] == [NUM_STEPS, NUM_STEPS]
    expected = make_batch_indices(NUM_TRAIN, TINY["train.batch_size"], seed=0)
    for step, parts in enumerate(zip(*reads, strict=True)):
        np.testing.assert_array_equal(np.concatenate(parts), expected(step))


@pytest.mark.long
def test_signal_to_one_process_stops_both_at_one_step_and_another_number_resumes(
    data_dir, tmp_path, trained_workdir
):
    workdir, flags = tmp_path / "run", config_flags(data_dir)
    stopped = train(workdir, flags, num_processes=2, victim=1, step=EVAL_EVERY)
    codes = [e.returncode for e in stopped]
    assert codes == [128 + signal.SIGTERM] * 2, [e.stderr for e in stopped]
    assert f"Stopped by SIGTERM at step {EVAL_EVERY + 1}" in stopped[0].stderr
    (finished,) = train(workdir, flags, num_processes=1)
    assert finished.returncode == 0, finished.stderr
    assert f"Resuming from step {EVAL_EVERY + 1}." in finished.stderr
    assert_same_state(workdir, trained_workdir)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_one_ends_the_other_and_the_run_resumes(
    data_dir, tmp_path, trained_workdir, victim
):
    workdir, flags = tmp_path / "run", config_flags(data_dir)
    kill = {"victim": victim, "step": 2 * EVAL_EVERY, "number": signal.SIGKILL}
    ended = train(workdir, flags, num_processes=2, **kill)
    survivor = ended[1 - victim]
    assert ended[victim].returncode == -signal.SIGKILL
    assert survivor.returncode not in (0, -signal.SIGKILL)
    # JAX's runtime may be the first to notice, and ends the process itself.
    messages = ("lost another process, whose log says why", "another task died")
    assert any(message in survivor.stderr for message in messages), survivor.stderr
    (resumed,) = train(workdir, flags, num_processes=1)  # the number need not be the same
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step " in resumed.stderr
    assert_same_state(workdir, trained_workdir)


@pytest.mark.long
def test_damaged_checkpoint_is_set_aside_by_one_process_and_all_take_the_one_before(
    data_dir, tmp_path, trained_workdir
):
    workdir = shutil.copytree(trained_workdir, tmp_path / "run")
    for path in (workdir / "checkpoints" / str(NUM_STEPS)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ended = train(workdir, config_flags(data_dir), num_processes=2)
    assert [e.returncode for e in ended] == [0, 0], [e.stderr for e in ended]
    assert "Resuming from step 20." in ended[0].stderr
    assert (workdir / "damaged_checkpoints" / str(NUM_STEPS)).exists()
    assert_same_state(workdir, trained_workdir)


# Joining


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1", 2, None), "--process_id must be given as well"),
        ((None, 2, 0), "--coordinator_address must be given as well"),
        (("127.0.0.1:1", 2, 2), r"process_id = 2 must lie in \[0, 1\]"),
    ],
)
def test_wrong_numbers_of_processes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        distributed.join(*arguments)


def test_missing_cluster_is_reported(data_dir, tmp_path):
    completed = run_python(
        "train.py", f"--workdir={tmp_path / 'run'}", "--distributed", *config_flags(data_dir)
    )
    assert completed.returncode == 1
    assert "--distributed found no SLURM or Open MPI environment" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert not (tmp_path / "run").exists()
