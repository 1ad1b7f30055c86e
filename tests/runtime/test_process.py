"""Tests of vae_jax/runtime/process.py; its exits are tested in test_signals.py."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from tests import processes
from tests.conftest import REPOSITORY, config_flags, run_python, user_environment
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import InputError
from vae_jax.runtime import process

ABANDONED = """
from vae_jax.runtime import process
process.log_to_stderr()
async def write_array():
    pass
write_array()
"""


def test_log_hides_writes_that_orbax_abandons():
    """Otherwise a RuntimeWarning follows the message about a checkpoint that was not saved."""
    completed = run_python("-c", ABANDONED)
    assert completed.returncode == 0 and completed.stderr == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Unable to initialize backend 'cuda':\nno GPU (set JAX_PLATFORMS='')"),
            "no GPU",
        ),
        (AssertionError(), "JAX_PLATFORMS=cuda"),  # what JAX raises without its package for GPUs
    ],
)
def test_missing_device_is_told_with_a_remedy(error, reason, monkeypatch):
    def devices() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match=reason) as caught:
        process.require_backend()
    message = str(caught.value)
    assert "JAX_PLATFORMS=cpu" in message and "vae_jax[gpu]" in message and "\n" not in message


def test_devices_that_are_there_are_accepted():
    process.require_backend()


def test_compilation_cache_needs_no_home_directory(monkeypatch):
    directory = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, not in the user list
    try:
        process.cache_compilations()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", directory)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_closed_standard_streams_are_opened(tmp_path):
    """Otherwise the first files that are opened get their numbers, and receive what is printed."""
    child = os.fork()
    if child == 0:
        try:
            for number in range(3):
                os.close(number)
            sys.stdin = sys.stdout = sys.stderr = None
            process.open_standard_streams()
            print("lost")
            print("lost", file=sys.stderr, flush=True)
            with (tmp_path / "file").open("w") as file:
                os._exit(0 if file.fileno() > 2 and sys.stdin.read() == "" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# The start of a command


def start_training(*arguments, more: dict[str, str] | None = None, prefix=()) -> subprocess.Popen:
    environment = user_environment() | (more or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*prefix, sys.executable, "-W", "error", "train.py", *arguments]
    return processes.start(command, cwd=REPOSITORY, env=environment, **pipes)


def test_wrong_variable_of_jax_is_told_in_one_line():
    started = start_training("--help", more={"JAX_NUM_CPU_DEVICES": "abc"})
    completed = processes.finish(started)
    (line,) = completed.stderr.splitlines()
    assert completed.returncode == 1 and line.startswith('train.py: Invalid value "abc"')


def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path):
    """The first import of the command waits for a signal, and the second one would fail."""
    (tmp_path / "jax.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    # A shell would start a background process with SIGINT ignored.
    prefix = [sys.executable, "-c", FOREGROUND]
    completed = processes.finish(start_training(more={"PYTHONPATH": str(tmp_path)}, prefix=prefix))
    assert completed.returncode == -signal.SIGINT and completed.stderr == ""


FOREGROUND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.long
def test_training_with_closed_streams_and_warnings_as_errors(data_dir, tmp_path):
    flags = config_flags(data_dir, train__num_steps=8)
    prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    started = start_training(*flags, f"--workdir={tmp_path / 'run'}", prefix=prefix)
    assert processes.finish(started).returncode == 0
    assert Checkpoints(tmp_path / "run").steps()[-1] == 8
