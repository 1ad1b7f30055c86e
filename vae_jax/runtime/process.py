"""Around a process: its log, its origin, its workdir, signals that stop it, other processes."""

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
from typing import NoReturn

import jax
from absl import logging as absl_logging

from vae_jax.errors import InputError, UserError

LOGGER = logging.getLogger(__name__)

LOCK_FILE = ".lock"
COMPILATION_CACHE = "~/.cache/vae_jax/compiled"
HEARTBEAT_TIMEOUT = 30  # seconds after which a silent process counts as dead
SHUTDOWN_TIMEOUT = 60  # seconds that a finished process waits for the others

MAKE_ROOM = "Make room there and give the same command again."
GIVE_ACCESS = "Give this user the right to read and write it, or name another place."
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), MAKE_ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), GIVE_ACCESS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "A directory is needed: name another place."),
}


class WorkdirBusyError(UserError, RuntimeError):
    """Another process trains in the workdir."""


class ProcessLostError(UserError, RuntimeError):
    """Another process of the run cannot be reached."""


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


def cache_compilations() -> None:
    """Keeps compiled programs on disk, so that the same command again starts in seconds.

    JAX's own variables come first: JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE.
    """
    if jax.config.jax_compilation_cache_dir is None:
        directory = pathlib.Path(COMPILATION_CACHE).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(directory))


def join_processes(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of several that train together. Before JAX is used.

    Args:
      coordinator_address: host:port of process 0, the same for all.
      num_processes: of the run.
      process_id: of this one, from 0. All three None: found in the environment (SLURM, Open MPI).

    Raises:
      ValueError: some are given and others not, or they contradict one another.
      ProcessLostError: the others could not be reached.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"--{', --'.join(missing)} must be given as well: coordinator_address (host:port of "
            "process 0) and num_processes are the same for all processes, process_id is not."
        )
    if not missing and not 0 <= process_id < num_processes:
        raise InputError(
            f"process_id = {process_id} must lie in [0, {num_processes - 1}], num_processes being "
            f"{num_processes}."
        )
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    try:
        jax.distributed.initialize(
            **given,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (ValueError, RuntimeError) as error:  # JaxRuntimeError is one
        if missing:
            raise InputError(
                f"--distributed found no SLURM or Open MPI environment ({error}): give "
                "--coordinator_address, --num_processes and --process_id."
            ) from error
        raise ProcessLostError(
            f"process {process_id} could not join the others at {coordinator_address} ({error}): "
            "start all of them within minutes, with the same address of process 0."
        ) from error
    LOGGER.info(
        "Process %d of %d, devices: %d of %d. Should another one die, this one ends within %d s; "
        "the same commands resume from the last checkpoint.",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        HEARTBEAT_TIMEOUT,
    )
    if jax.process_index() > 0:
        LOGGER.parent.setLevel(logging.WARNING)  # process 0 tells what all do


def fail(message: str) -> NoReturn:
    """Ends the process with a message and exit code 1.

    One of several ends at once: an orderly end would wait for the others, which may be gone, or
    wait for this one. They notice that it is silent.
    """
    if jax.process_count() > 1:
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(message)


@contextlib.contextmanager
def exit_on_user_error(
    program: str, directory: str | pathlib.Path | None = None, hint: str = ""
) -> Iterator[None]:
    """Ends the process with one line where the block raises what a user can put right.

    Any other exception is a defect and passes with its traceback.

    Args:
      program: the command's name, in front of the message.
      directory: named where an error of the operating system names no path.
      hint: behind the message.
    """
    try:
        yield
    except UserError as error:
        message, caught = str(error), error
    except OSError as error:
        message, caught = describe_os_error(error, directory or ""), error
    else:
        return
    LOGGER.debug("Traceback:", exc_info=caught)
    fail(f"{program}: {message}{hint}")


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
        "devices": [device.device_kind for device in jax.devices()],
        "num_processes": jax.process_count(),
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


def check_writable(directory: pathlib.Path, contents: bool = True) -> None:
    """Raises a PermissionError unless a directory, and what lies directly in it, may be written."""
    for path in (directory, *(sorted(directory.iterdir()) if contents else ())):
        needed = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        if not os.access(path, needed) and path.exists():  # another process may remove its own
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
