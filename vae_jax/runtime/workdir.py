"""Access to a run's directory: its contents, its lock, and messages for what goes wrong."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import pathlib
import stat
from collections.abc import Iterator

from vae_jax.errors import InputError, UserError
from vae_jax.runtime import owner
from vae_jax.runtime.names import printable

LOGGER = logging.getLogger(__name__)

LOCK_FILE = ".lock"
OWNER_FILE = ".lock.owner"  # the lock on file systems that have no locks

# Errors of flock on such file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

MAKE_ROOM = "Make room there and run the same command again."
GIVE_ACCESS = "Give this user the right to read and write it, or choose another directory."
ELSEWHERE = "Or have the results written elsewhere: --output=DIR."
NOT_A_DIRECTORY = "It must be a directory: choose another path."
CHOOSE_ANOTHER = "Choose another path."
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), MAKE_ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), GIVE_ACCESS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), NOT_A_DIRECTORY),
    **dict.fromkeys((errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG), CHOOSE_ANOTHER),
}


class WorkdirBusyError(UserError, RuntimeError):
    """Another process trains in the workdir."""


def describe_os_error(error: OSError, workdir: str | pathlib.Path) -> str:
    """Returns one line with the path, what is wrong with it, and a remedy."""
    if error.errno is None:  # raised with a complete message of its own
        return str(error)
    reason = error.strerror or os.strerror(error.errno)
    path = printable(str(error.filename or workdir))
    return f"{path}: {reason}. {REMEDIES.get(error.errno, '')}".rstrip()


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


def check_contents(workdir: pathlib.Path) -> None:
    """Refuses a workdir in which something is neither a file nor a directory of its own.

    A workdir may come from somebody else. Through a symbolic link, a run would read or overwrite
    files elsewhere, and at a pipe it would wait for ever. The workdir itself may be a link.

    Raises:
      InputError: a pipe, a socket, a device, or a symbolic link that leads out of the workdir.
    """
    root = os.path.realpath(workdir)
    directories = [str(workdir)]
    while directories:
        # Another process may remove its files meanwhile; a directory that cannot be listed, such as
        # lost+found, is not used either.
        with (
            contextlib.suppress(FileNotFoundError, PermissionError),
            os.scandir(directories.pop()) as entries,
        ):
            for entry in entries:
                if entry.is_symlink():
                    _check_link(entry.path, root)
                elif entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise InputError(
                        f"{printable(entry.path)} is a pipe, a socket or a device: remove it."
                    )


def _check_link(link: str, root: str) -> None:
    """Raises an InputError if a symbolic link in the workdir leads out of it, or in a circle."""
    target = os.path.realpath(link)
    if os.path.commonpath((root, target)) != root or os.path.islink(target):
        raise InputError(
            f"{printable(link)} is a symbolic link to {printable(os.readlink(link))}, which is not "
            "in the workdir: replace it by a copy of what it leads to, or remove it."
        )


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Reserves the workdir for one process; the lock ends with the process, however it ends.

    On a file system without locks, a file that names the process takes their place. It is removed
    at the end, and replaced if its process has died.

    Raises:
      WorkdirBusyError: another process trains there.
      InputError: the file of the lock is something else than a file.
    """
    with contextlib.ExitStack() as stack:
        file = os.fdopen(_open_lock(workdir / LOCK_FILE), "wb")
        stack.enter_context(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirBusyError(
                f"Another process trains in {workdir}: wait for it, stop it, or give another "
                "--workdir."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _log_missing_locks(os.strerror(error.errno))
            stack.enter_context(_own_workdir(workdir))
        yield


def _open_lock(path: pathlib.Path) -> int:
    """Opens a file that is not a link, a pipe or a directory, and makes it if there is none."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    raise InputError(f"{path} is not a regular file: remove it.")


@functools.cache
def _log_missing_locks(reason: str) -> None:
    LOGGER.info(
        "The file system of the workdir has no locks (%s): %s names the process that trains there.",
        reason,
        OWNER_FILE,
    )


@contextlib.contextmanager
def _own_workdir(workdir: pathlib.Path) -> Iterator[None]:
    path = workdir / OWNER_FILE
    other = owner.claim(path)
    if other is not None:
        raise WorkdirBusyError(
            f"{other} trains in {workdir}: wait for it, stop it, or give another --workdir. If it "
            f"no longer runs, remove {path}."
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
