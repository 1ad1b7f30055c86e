"""Around a process: its log, where it comes from, the lock on its workdir, signals that stop it."""

import contextlib
import datetime
import fcntl
import logging
import pathlib
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from importlib import metadata

import jax
from absl import logging as absl_logging

LOCK_FILE = ".lock"


class WorkdirBusyError(RuntimeError):
    """Another process trains in the workdir."""


def log_to_stderr(debug: bool = False) -> logging.Logger:
    """Sends this package's log to stderr as plain lines; returns its logger.

    A logger of its own: absl's, kept to errors here, tells every step that orbax takes.
    """
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger = logging.getLogger("vae_jax")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    return logger


def collect_provenance() -> dict[str, object]:
    """What a number needs besides its configuration to be reproduced."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    root = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str | None:
        if shutil.which("git") is None:
            return None
        result = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        return result.stdout.strip() if result.returncode == 0 else None

    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": git("rev-parse", "HEAD"),
        "git_modified_files": git("status", "--porcelain", "--untracked-files=no"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "devices": [device.device_kind for device in jax.local_devices()],
        "processor": platform.processor() or platform.machine(),
    }


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir for one trainer; the lock falls with the process, however it ends.

    Raises:
      WorkdirBusyError: another process trains there.
    """
    with (workdir / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirBusyError(
                f"Another process trains in {workdir}: wait for it, stop it, or give another "
                "--workdir."
            ) from error
        yield


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one acts as usual."""
    received: list[int] = []
    previous = {}

    def handler(number, _frame):
        received.append(number)
        for each, old in previous.items():
            signal.signal(each, old)

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
