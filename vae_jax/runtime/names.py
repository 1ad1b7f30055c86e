"""Names of directories that a user gives: `~` expanded, and unusable ones refused before the start.

Orbax and tensorstore read some characters in the path of a checkpoint as something else. A name
that a run could be trained in, but not be loaded from, is refused here.
"""

import os
import pathlib
import re
import unicodedata

from vae_jax import files
from vae_jax.errors import InputError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib turns gs://bucket into gs:/bucket
CONTROL_CATEGORIES = ("Cc", "Zl", "Zp")  # characters that break a line of the log, and NUL
# The path library of orbax takes /gs/bucket for gs://bucket.
STORAGE_ROOTS = ("gs", "s3", "az", "hf")
LONGEST_PATH = 4096  # bytes, on Linux
LONGEST_INSIDE = 300  # bytes that the files of a run add to the path of their workdir


def resolve_workdir(value: str | os.PathLike[str], flag: str = "--workdir") -> pathlib.Path:
    """Returns the absolute path of a run's directory, which need not exist.

    Symbolic links are kept as they are.

    Args:
      value: the directory as the user gives it; `~` and `~user` are expanded.
      flag: name of the flag, key or argument, for messages.

    Raises:
      InputError: no run can be kept in a directory of this name.
    """
    path = expand_user(value, flag)
    shown = printable(path)
    if not path.is_absolute():
        try:
            path = expand_user(pathlib.Path.cwd() / path, flag)  # checks the characters, too
        except FileNotFoundError as error:
            raise InputError(
                f"{flag}={shown}: the current directory no longer exists. Change to another one, "
                "or give an absolute path."
            ) from error
    if "\\" in str(path):
        raise InputError(
            f"{flag}={shown}: a backslash in {path} would be read as a slash. Rename the "
            "directory, or give a symbolic link to it."
        )
    if path.parts[1:] and path.parts[1] in STORAGE_ROOTS:
        raise InputError(
            f"{flag}={shown}: a path below /{path.parts[1]} would be read as a URL. Give a "
            "directory elsewhere, or a symbolic link to this one."
        )
    _check_length(path, f"{flag}={shown}")
    return path


def expand_user(value: str | os.PathLike[str], key: str) -> pathlib.Path:
    """Returns a path with `~` and `~user` expanded.

    Args:
      value: the path as the user gives it.
      key: name of the flag, key or argument, for messages.

    Raises:
      InputError: the path is empty or a URL, has characters that are not allowed, or has a `~` that
        leads to no home directory.
    """
    text = os.fspath(value)
    shown = f"{key}={printable(text)}"
    if not text.strip():
        raise InputError(f"{key} is empty: give the path of a directory.")
    if not _is_utf8(text):
        raise InputError(f"{shown}: not UTF-8. Rename it, or set PYTHONUTF8=1 in another locale.")
    if any(unicodedata.category(character) in CONTROL_CATEGORIES for character in text):
        raise InputError(f"{shown}: line breaks and control characters are not allowed.")
    if URL.match(text):
        raise InputError(
            f"{shown}: URLs are not supported. Mount the storage and give the path of the mount, "
            f"or use a local directory and copy it afterwards (./{text} is a local one)."
        )
    return files.expand_home(key, text)


def printable(path: str | os.PathLike[str]) -> str:
    """Returns a path as one line of text that every terminal can show."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in os.fspath(path)
    )


def _is_utf8(text: str) -> bool:
    """Returns whether the path has the same bytes for Python and for libraries that use UTF-8."""
    try:
        return os.fsencode(text) == text.encode()
    except UnicodeEncodeError:
        return False


def _check_length(path: pathlib.Path, shown: str) -> None:
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    limit = os.pathconf(existing, "PC_NAME_MAX")
    longest = max(len(os.fsencode(part)) for part in path.parts)
    if longest > limit:
        raise InputError(
            f"{shown}: a name in it has {longest} bytes, but the file system takes {limit}. "
            "Shorten it."
        )
    length = len(os.fsencode(path))
    if length + LONGEST_INSIDE > LONGEST_PATH:
        raise InputError(
            f"{shown}: the path has {length} bytes, but at most {LONGEST_PATH - LONGEST_INSIDE} "
            "leave room for the files of a run. Shorten it."
        )
