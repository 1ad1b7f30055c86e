"""Runs of train.py in processes of their own for the fault tests, and checks of their end."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import processes
from tests.conftest import REPOSITORY, config_flags, make_once, read_state, user_environment
from vae_jax.checkpoints import DIRECTORY
from vae_jax.recording.writers import read_metrics

# The tiny configuration with a checkpoint at every other step.
OVERRIDES = {"train__checkpoint_every_steps": 2}

# Runs a script of the repository after code that prepares the fault.
RUNNER = """
import runpy, sys
{fault}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Runs:
    """Starts scripts of the repository."""

    def __init__(self, data_dir: pathlib.Path):
        self.data_dir = data_dir

    def start(
        self, script: str, *arguments, fault: str = "", prefix=(), tensorflow: bool = False
    ) -> subprocess.Popen:
        """Starts `script` after the code `fault`, with the command `prefix` before Python."""
        code = RUNNER.format(fault=fault)
        return processes.start(
            [*prefix, sys.executable, "-c", code, script, *arguments],
            cwd=REPOSITORY,
            env=user_environment(tensorflow=tensorflow),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_training(
        self, workdir: pathlib.Path, *flags, data_dir: pathlib.Path | None = None, **options
    ) -> subprocess.Popen:
        config = config_flags(data_dir or self.data_dir, **OVERRIDES)
        return self.start("train.py", f"--workdir={workdir}", *config, *flags, **options)

    def train(self, *arguments, **options) -> subprocess.CompletedProcess:
        return processes.finish(self.start_training(*arguments, **options))

    def evaluate(self, workdir: pathlib.Path, *flags, **options) -> subprocess.CompletedProcess:
        flags = [f"--workdir={workdir}", "--num_samples=0", "--num_failures=0", *flags]
        return processes.finish(self.start("evaluate.py", *flags, **options))


@pytest.fixture(scope="session")
def runs(data_dir) -> Runs:
    return Runs(data_dir)


@pytest.fixture(scope="session")
def undisturbed(runs, shared_dir) -> pathlib.Path:
    """The workdir of a run without faults. It must not be changed: copy it first."""

    def train(workdir: pathlib.Path) -> None:
        completed = runs.train(workdir)
        assert completed.returncode == 0, completed.stderr

    return make_once(shared_dir / "undisturbed", train)


def read_records(workdir: pathlib.Path) -> list[dict]:
    """Returns the records of a run without its speed."""
    return [
        {k: v for k, v in record.items() if k != "train/images_per_second"}
        for record in read_metrics(workdir)
    ]


def assert_ended_as(
    workdir: pathlib.Path, undisturbed: pathlib.Path, checkpoints_may_be_left: bool = False
) -> None:
    """Asserts a bitwise equal final state, equal records and checkpoints, and no partial files."""
    jax.tree.map(np.testing.assert_array_equal, read_state(workdir), read_state(undisturbed))
    assert read_records(workdir) == read_records(undisturbed)
    names, expected = ({p.name for p in (w / DIRECTORY).iterdir()} for w in (workdir, undisturbed))
    assert expected <= names and all(name.isdigit() for name in names)
    assert checkpoints_may_be_left or names == expected


def assert_no_traceback(completed: subprocess.CompletedProcess) -> None:
    assert "Traceback" not in completed.stdout + completed.stderr, completed.stderr


def assert_one_line(completed: subprocess.CompletedProcess, script: str, *parts: str) -> None:
    """Asserts an exit code of 1 and a single line that contains all of `parts`."""
    assert completed.returncode == 1, completed.stderr
    assert_no_traceback(completed)
    lines = [line for line in completed.stderr.splitlines() if line.startswith(f"{script}: ")]
    assert len(lines) == 1 and completed.stderr.rstrip().endswith(lines[0]), completed.stderr
    for part in parts:
        assert part in lines[0], (part, lines[0])
