"""Setup and end of a process: streams, log, devices, compilation cache, exit."""

import contextlib
import io
import logging
import os
import pathlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import jax
from absl import logging as absl_logging

from vae_jax.errors import InputError, UserError
from vae_jax.runtime.names import expand_user
from vae_jax.runtime.signals import Stopped, StopSignals, catch_stop_signals
from vae_jax.runtime.workdir import describe_os_error

if TYPE_CHECKING:
    from sys import UnraisableHookArgs  # exists for type checkers only

PACKAGE_LOGGER = logging.getLogger("vae_jax")
LOGGER = logging.getLogger(__name__)

COMPILATION_CACHE = "~/.cache/vae_jax/compiled"
OUT_OF_MEMORY = (
    "out of memory. In training, a smaller train.batch_size, a larger train.accumulation_steps or "
    "model.remat need less; in an evaluation, a smaller eval.batch_size."
)
DEVICE_VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")  # named if there are no devices


def open_standard_streams() -> None:
    """Opens /dev/null in place of stdin, stdout and stderr that are closed.

    Otherwise the next files to be opened would get their numbers, and what a library prints would
    be written into these files.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def log_to_stderr(debug: bool = False) -> logging.Logger:
    """Sends this package's log to stderr as plain lines and returns its logger.

    The package does not use absl's logger: at the level of its messages, absl also logs every step
    that orbax takes, and logs a failure several times.

    It also has stdout and stderr escape what their encoding lacks.

    Args:
      debug: whether to log debug messages, and what absl, asyncio and orbax report about errors.
    """
    escape_unprintable()
    absl_logging.set_verbosity(absl_logging.ERROR if debug else absl_logging.FATAL)
    if not PACKAGE_LOGGER.handlers:
        if not debug:  # `checkpoints` reports these failures in one line, without tracebacks
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            sys.unraisablehook = _ignore_abandoned_writes(sys.unraisablehook)
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        PACKAGE_LOGGER.addHandler(handler)
    PACKAGE_LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)
    PACKAGE_LOGGER.propagate = False
    return PACKAGE_LOGGER


def escape_unprintable() -> None:
    """Has stdout and stderr escape what their encoding lacks, such as '±' in an ASCII locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _ignore_abandoned_writes(
    hook: Callable[["UnraisableHookArgs"], Any],
) -> Callable[["UnraisableHookArgs"], None]:
    """Wraps sys.unraisablehook so that it ignores writes that orbax has abandoned.

    If one array cannot be written, orbax closes its event loop while it still writes the others.
    """

    def filtered_hook(unraisable: "UnraisableHookArgs") -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    return filtered_hook


def cache_compilations() -> None:
    """Keeps compiled programs on disk, so that a repeated command starts within seconds.

    JAX's environment variables JAX_COMPILATION_CACHE_DIR and JAX_ENABLE_COMPILATION_CACHE take
    precedence.
    """
    # JAX adds the attributes of its options at run time.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        try:
            directory = expand_user(COMPILATION_CACHE, "compilation cache")
        except InputError as error:
            LOGGER.info("Compiled programs are not kept: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(directory))


def require_backend() -> None:
    """Starts JAX's backend; call it before JAX is used, and after `distributed.join`.

    Raises:
      InputError: the devices that the environment asks for are not there or cannot be used.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        given = [f"{name}={os.environ[name]}: " for name in DEVICE_VARIABLES if name in os.environ]
        reason = " ".join(str(error).split()).split(" (set JAX_PLATFORMS")[0]
        raise InputError(
            f"{''.join(given)}JAX finds no such device, or cannot use it"
            f"{f' ({reason})' if reason else ''}. Unset the variable to use what there is, set "
            "JAX_PLATFORMS=cpu for the CPU, or install JAX for the device, for a GPU with "
            "pip install 'vae_jax[gpu]'."
        ) from error


@contextlib.contextmanager
def exit_on_user_error(
    program: str, directory: str | pathlib.Path = "", hint: str = ""
) -> Iterator[StopSignals]:
    """Ends the process with a one-line message if a user can fix an error, or a signal stops it.

    The exit code is 1 after an error, and after a signal 128 and its number, as in a shell. Any
    other exception is a defect and passes with its traceback.

    Args:
      program: name of the command, put before the message.
      directory: directory to name if an error of the operating system names no path.
      hint: text put after the message of an error.

    Yields:
      The stop signals that are received in the block.
    """
    with catch_stop_signals() as signals:
        try:
            yield signals
        except (UserError, OSError) as error:
            LOGGER.debug("Traceback:", exc_info=error)
            text = (
                str(error) if isinstance(error, UserError) else describe_os_error(error, directory)
            )
            _exit(f"{program}: {text}{hint}", 1)
        except (KeyboardInterrupt, Exception) as error:
            LOGGER.debug("Traceback:", exc_info=error)
            # JAX may turn what a signal has raised inside of it into an error of its own.
            if not signals.received and not isinstance(error, KeyboardInterrupt):
                if _is_out_of_memory(error):
                    _exit(f"{program}: {OUT_OF_MEMORY}{hint}", 1)
                raise
            stopped = Stopped(signals.received[0] if signals.received else signal.SIGINT)
            _exit(f"{program}: {stopped}", 128 + stopped.number)


def _is_out_of_memory(error: BaseException) -> bool:
    is_of_device = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXH" in str(error)
    return isinstance(error, MemoryError) or is_of_device


def _exit(message: str, code: int) -> NoReturn:
    if jax.distributed.is_initialized():
        # An orderly exit would wait for the others, which may be gone or may be waiting for this
        # one. They notice that its heartbeat has stopped.
        print(message, file=sys.stderr, flush=True)
        os._exit(code)
    if code == 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(code)


def run_and_exit(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command that is this whole process, and ends with the exit code that it returns.

    After a signal, the interpreter is not taken down in order: JAX may still compile in a thread of
    its own, which would crash.
    """
    try:
        sys.exit(main())
    except SystemExit as end:
        code, is_alone = end.code, not jax.distributed.is_initialized()
        if isinstance(code, int) and code > 128 and is_alone:  # several processes end together
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    stream.flush()
            os._exit(code)
        raise


def show(text: str) -> None:
    """Prints the result of a command; it is no error if the reader, such as `head`, has gone."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
