"""Access to a run's directory: its lock, write permissions, and messages for what goes wrong."""

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from vae_jax.errors import UserError

LOCK_FILE = ".lock"

MAKE_ROOM = "Make room there and run the same command again."
GIVE_ACCESS = "Give this user the right to read and write it, or choose another directory."
ELSEWHERE = "Or have the results written elsewhere: --output=DIR."
NOT_A_DIRECTORY = "It must be a directory: choose another path."
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), MAKE_ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), GIVE_ACCESS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), NOT_A_DIRECTORY),
}


class WorkdirBusyError(UserError, RuntimeError):
    """Another process trains in the workdir."""


def describe_os_error(error: OSError, workdir: str | pathlib.Path) -> str:
    """Returns one line with the path, what is wrong with it, and a remedy."""
    if error.errno is None:  # raised with a complete message of its own
        return str(error)
    reason = error.strerror or os.strerror(error.errno)
    return f"{error.filename or workdir}: {reason}. {REMEDIES.get(error.errno, '')}".rstrip()


def check_writable(directory: pathlib.Path, contents: bool = True, hint: str = "") -> None:
    """Raises a PermissionError unless a directory and its direct contents can be written.

    Args:
      directory: an existing directory.
      contents: whether to check the files and directories directly inside as well.
      hint: another way, put after the message.
    """
    for path in (directory, *(sorted(directory.iterdir()) if contents else ())):
        needed = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
        # Another process may have removed a file of its own since it was listed.
        if not os.access(path, needed) and path.exists():
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            error = PermissionError(number, os.strerror(number), str(path))
            if hint:
                raise PermissionError(f"{describe_os_error(error, directory)} {hint}")
            raise error


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Reserves the workdir for one process; the lock ends with the process, however it ends.

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
