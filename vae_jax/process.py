"""Around a process: its log, where it comes from, its workdir, signals that stop it."""

import contextlib
import datetime
import errno
import fcntl
import logging
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import jax
from absl import logging as absl_logging

LOCK_FILE = ".lock"

MAKE_ROOM = "Make room there and give the same command again."
GIVE_ACCESS = "Give this user the right to read and write it, or name another place."
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), MAKE_ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), GIVE_ACCESS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "A directory is needed: name another place."),
}


class WorkdirBusyError(RuntimeError):
    """Another process trains in the workdir."""


def log_to_stderr(debug: bool = False) -> logging.Logger:
    """Sends this package's log to stderr as plain lines; returns its logger.

    A logger of its own: absl's tells every step that orbax takes, and several times where one
    fails.
    """
    absl_logging.set_verbosity(absl_logging.ERROR if debug else absl_logging.FATAL)
    logger = logging.getLogger("vae_jax")
    if not logger.handlers:
        if not debug:  # `checkpoints` says in a line what these tell in tracebacks
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            sys.unraisablehook = _hook_without_abandoned_writes(sys.unraisablehook)
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


def _hook_without_abandoned_writes(hook: Callable) -> Callable:
    """Where one array cannot be written, orbax ends its event loop under the others."""

    def call(unraisable) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    return call


def describe_os_error(error: OSError, workdir: str | pathlib.Path) -> str:
    """One line with the path, what is wrong with it, and a remedy."""
    if error.errno is None:  # raised with a whole message
        return str(error)
    reason = error.strerror or os.strerror(error.errno)
    return f"{error.filename or workdir}: {reason}. {REMEDIES.get(error.errno, '')}".rstrip()


def check_writable(directory: pathlib.Path) -> None:
    """Raises a PermissionError unless a directory and what lies directly in it may be written."""
    for path in (directory, *sorted(directory.iterdir())):
        needed = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        if not os.access(path, needed):
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise PermissionError(number, os.strerror(number), str(path))


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
