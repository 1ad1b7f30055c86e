"""The directory of an evaluation, which is replaced as a whole.

An evaluation is written beside its directory, into .NAME.PID@HOST.RANDOM.new. At the end the old
directory is renamed to a name that ends in .previous, the new one takes its place, and the old one
is removed. So the directory holds one complete evaluation, whenever the process is killed. Files
that are not of an evaluation, such as a user's notes, move along.
"""

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import platform
import re
import secrets
import shutil
from collections.abc import Iterator

from vae_jax import files, gallery
from vae_jax.doctor import diagnosis
from vae_jax.errors import InputError, UserError
from vae_jax.metrics import stored
from vae_jax.report.content import CAPTIONS
from vae_jax.runtime.workdir import ELSEWHERE, check_writable

METRICS_FILE = "metrics.json"
GALLERY_FILE = "gallery.json"
REPORT_FILE = "report.md"
HTML_FILE = "report.html"
IMAGES = "images"
FILES = (
    *(METRICS_FILE, GALLERY_FILE, REPORT_FILE, HTML_FILE),
    *(diagnosis.REPORT_FILE, diagnosis.FIGURE_FILE),
)
LOGGER = logging.getLogger(__name__)
NEW, PREVIOUS = ".new", ".previous"
LONGEST_NAME = 100  # bytes; file systems take 255 with what is added


@contextlib.contextmanager
def replaced(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty directory; what was written there then replaces `directory` in one step.

    After an error, `directory` is as it was. If several processes replace it at the same time, the
    last one wins.
    """
    directory = directory.resolve()  # the target of a link is replaced, not the link
    directory.parent.mkdir(parents=True, exist_ok=True)
    recover(directory)
    new = _beside(directory, NEW)
    new.mkdir()
    try:
        yield new
    except BaseException:
        _discard(new)
        raise
    try:
        _publish(new, directory)
    except OSError:
        LOGGER.error("%s could not be replaced; the new evaluation is in %s.", directory, new)
        raise


def recover(directory: pathlib.Path) -> None:
    """Puts right what killed evaluations have left beside a directory.

    If one was killed between its two renames, the previous evaluation comes back.
    """
    directory = directory.resolve()
    with contextlib.suppress(OSError):  # read-only, or another process has just done the same
        leftovers = [p for p in directory.parent.iterdir() if _parse(p, directory)]
        previous = [p for p in leftovers if p.suffix == PREVIOUS and (p / METRICS_FILE).exists()]
        if previous and not directory.exists():
            max(previous, key=lambda p: (p / METRICS_FILE).stat().st_mtime).rename(directory)
        for path in leftovers:
            if path.exists() and _is_dead(path, directory):
                _move_foreign(path, directory)
                _discard(path)


def check_replaceable(directory: pathlib.Path, is_chosen: bool) -> None:
    """Checks that an evaluation can be written, before the work of hours.

    Args:
      directory: directory of the evaluation, which need not exist.
      is_chosen: whether a user has chosen it, so that it may be anything.

    Raises:
      InputError: it is a mount point, or a chosen directory holds other things.
      OSError: it, or the directory above, cannot be written.
    """
    if directory.is_symlink():  # its target is replaced
        directory = directory.resolve()
    if directory.exists():
        if os.path.ismount(directory):
            raise InputError(
                f"{directory} is a mount point and cannot be replaced: give --output="
                f"{directory / 'eval'}."
            )
        if is_chosen and any(directory.iterdir()) and not _is_evaluation(directory):
            raise InputError(
                f"--output={directory} holds other things than an evaluation: give a new or an "
                "empty directory."
            )
    hint = "" if is_chosen else ELSEWHERE
    above = next(path for path in directory.absolute().parents if path.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    check_writable(above, contents=False, hint=hint)
    if directory.exists():
        check_writable(directory, hint=hint)


def _is_evaluation(directory: pathlib.Path) -> bool:
    try:
        return bool(stored.read(directory / METRICS_FILE))
    except UserError:
        return False


def _publish(new: pathlib.Path, directory: pathlib.Path) -> None:
    """Puts a new evaluation in place of the old one."""
    for path in (new / IMAGES, new):
        _sync(path)
    moved: list[pathlib.Path] = []
    try:
        while not _takes_place(new, directory):
            previous = _beside(directory, PREVIOUS)
            with contextlib.suppress(FileNotFoundError):  # another process has just moved it
                directory.rename(previous)
                moved.append(previous)
                shutil.copymode(previous, new)
                _move_foreign(previous, new)
    except BaseException:
        if moved:
            with contextlib.suppress(OSError):
                moved[-1].rename(directory)
            _move_foreign(new, directory)
        raise
    _sync(directory.parent)
    for previous in moved:
        _discard(previous)


def _takes_place(new: pathlib.Path, directory: pathlib.Path) -> bool:
    """Renames `new` to `directory`, and returns whether there was room: none, or an empty one."""
    try:
        new.rename(directory)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _move_foreign(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves what is not of an evaluation, unless the target has something of the same name."""
    with contextlib.suppress(FileNotFoundError):  # another process has just put it back
        for path in [*_contents(source)]:
            destination = target / path.relative_to(source)
            if not _is_ours(path, source) and not os.path.lexists(destination):
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.rename(destination)


def _discard(directory: pathlib.Path) -> None:
    """Removes an evaluation; what is not of it stays, and with it the directory."""
    with contextlib.suppress(OSError):
        for path in [*_contents(directory)]:
            if _is_ours(path, directory):
                path.unlink()
    for path in (directory / IMAGES, directory):
        with contextlib.suppress(OSError):
            path.rmdir()


def _contents(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields what is in a directory, with the content of images/ in place of images/."""
    for path in directory.iterdir():
        if path.name == IMAGES and _is_directory(path):
            yield from path.iterdir()
        else:
            yield path


def _is_ours(path: pathlib.Path, directory: pathlib.Path) -> bool:
    """Returns whether a path in the directory of an evaluation was written by one."""
    if _is_directory(path):
        return False
    if path.name.startswith(".") and path.name.endswith(files.TEMPORARY):
        return True
    if path.parent == directory:
        return path.name in (*FILES, IMAGES)
    return path.suffix == ".png" and path.stem in (*CAPTIONS, *gallery.PICTURES)


def _is_directory(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _beside(directory: pathlib.Path, suffix: str) -> pathlib.Path:
    """Returns a path of this process beside a directory."""
    owner = f"{os.getpid()}@{platform.node()}"
    return directory.with_name(f".{_short(directory.name)}.{owner}.{secrets.token_hex(4)}{suffix}")


def _short(name: str) -> str:
    """Returns the name, or its hash if it is so long that nothing could be added to it."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONGEST_NAME else hashlib.sha256(encoded).hexdigest()[:32]


def _parse(path: pathlib.Path, directory: pathlib.Path) -> re.Match[str] | None:
    """Returns the (process id, host) in a name that `_beside` made for this directory."""
    name = re.escape(_short(directory.name))
    return re.fullmatch(rf"\.{name}\.(\d+)@(.*)\.[0-9a-f]{{8}}\.(new|previous)", path.name)


def _is_dead(path: pathlib.Path, directory: pathlib.Path) -> bool:
    """Returns whether the process that made a path has ended; those of other hosts may live."""
    match = _parse(path, directory)
    if match is None or match[2] != platform.node():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _sync(directory: pathlib.Path) -> None:
    """Has the names in a directory written to the disk, where the file system can do so."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
