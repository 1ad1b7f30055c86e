"""Files of a run: written whole or not at all, text as UTF-8, and JSON that every parser accepts.

JSON has no NaN and no infinity. A number that is not finite is written as null, and the key beside
it says what it was: {"elbo": NaN} becomes {"elbo": null, "elbo/not_finite": "nan"}. For a number in
a list, that key holds its position: {"rates/not_finite": {"3": "inf"}}. `parse_json` puts the
numbers back.
"""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import stat
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from vae_jax.errors import InputError, NotFoundError

TEMPORARY = ".tmp"  # ends the names of files that a killed process may leave behind
ABANDONED = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)  # such a name: .NAME.PROCESS.tmp
ABANDONED_SECONDS = 3600  # age of a file that no process writes any more
NOT_FINITE = "/not_finite"  # ends the key that says which number a null stands for


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader, or a machine that loses power, sees all of it or the old one.

    A symbolic link at `path` is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}{TEMPORARY}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_abandoned(directory: pathlib.Path) -> None:
    """Removes what killed processes left when they wrote files in or below a directory."""
    now = time.time()
    for path in directory.rglob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            is_old = now - path.lstat().st_mtime > ABANDONED_SECONDS
            if is_old and ABANDONED.fullmatch(path.name):
                path.unlink()


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as UTF-8, as `write_bytes` does.

    Bytes of a path that are not in the encoding of the locale, which Python keeps as lone
    surrogates, are written as they are if they are UTF-8, and escaped otherwise.
    """
    content = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    write_bytes(path, content.encode())


def write_json(path: pathlib.Path, content: object) -> None:
    """Writes a JSON file, as `write_bytes` does."""
    write_text(path, to_json(content, indent=2) + "\n")


def expand(key: str, value: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path that a user gave, with `~` expanded, whether it exists or not.

    Args:
      key: the key or option that the path belongs to, for messages.
      value: the path.

    Raises:
      InputError: `~` stands for no known directory, or no file can have this path.
    """
    path = expand_home(key, os.fspath(value))
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise InputError(
            f"{key}={str(value)!r:.200}: not a path that can be used ({reason}). Give another path."
        ) from error
    return path


def expand_home(key: str, text: str) -> pathlib.Path:
    """Returns a path with `~` and `~user` expanded; raises an InputError if there is no such home.

    The `key` names the path in the message.
    """
    expanded = os.path.expanduser(text)
    is_own = text == "~" or text.startswith("~/")
    if expanded.startswith("~") or (is_own and os.environ.get("HOME") == ""):
        raise InputError(
            f"{key}={text!r:.200}: ~ leads to no home directory. Set HOME, write the path out, or "
            "write ./~ for a directory of this name."
        )
    return pathlib.Path(expanded)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file to read its bytes, which must have an end and be there without waiting.

    Raises:
      NotFoundError: there is no such file.
      InputError: it is a directory, a pipe, a socket or a device.
      OSError: it cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        link = f" is a link to {os.readlink(path)}, which" if os.path.islink(path) else ""
        raise NotFoundError(f"{path}{link} does not exist.") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise InputError(
            f"{path} is not a regular file, but a {kinds.get(stat.S_IFMT(mode), 'device')}: put a "
            "file in its place, or give another path."
        )
    return open(path, "rb")


def read_text(path: pathlib.Path) -> str:
    """Reads a text file.

    Raises:
      NotFoundError: there is no such file.
      InputError: it is not a regular file, such as a pipe, which might never end, or not UTF-8.
    """
    with open_regular(path) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is damaged ({error}): put back a copy.") from error


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
      NotFoundError: there is no such file.
      InputError: it is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): put back a copy, or remove it.") from error


def to_json(content: object, indent: int | None = None) -> str:
    """Returns strict JSON for mappings, sequences, texts, booleans and (NumPy) numbers."""
    clean, reasons = _without_non_finite(content)
    if reasons is not None and not isinstance(content, Mapping):
        clean = {"value": clean, f"value{NOT_FINITE}": reasons}
    return json.dumps(clean, indent=indent, allow_nan=False)


def parse_json(text: str) -> Any:
    """Parses what `to_json` wrote, with the numbers that are not finite put back.

    Raises:
      ValueError: the text is not JSON.
    """
    try:
        return json.loads(text, object_hook=_with_non_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except TypeError as error:
        raise ValueError(f"a key that ends in {NOT_FINITE} has no number beside it") from error


def _without_non_finite(value: Any) -> tuple[Any, Any]:
    """Returns `value` with null for numbers that are not finite, and what these were.

    The second part is None if there are none, a text such as 'nan' for a number, and for a sequence
    a mapping from positions.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None, str(value)
    if isinstance(value, Mapping):
        clean: dict[str, Any] = {}
        for key, item in value.items():
            clean[key], reasons = _without_non_finite(item)
            if reasons is not None:
                clean[f"{key}{NOT_FINITE}"] = reasons
        return clean, None
    if isinstance(value, list | tuple | np.ndarray):
        items = [_without_non_finite(item) for item in value]
        found = {str(i): reasons for i, (_, reasons) in enumerate(items) if reasons is not None}
        return [item for item, _ in items], found or None
    return value, None


def _with_non_finite(content: dict[str, Any]) -> dict[str, Any]:
    for name in [name for name in content if name.endswith(NOT_FINITE)]:
        key = name.removesuffix(NOT_FINITE)
        if key in content:
            content[key] = _put_back(content[key], content.pop(name))
    return content


def _put_back(value: Any, reasons: Any) -> Any:
    if not isinstance(reasons, dict):
        return float(reasons)
    positions = {int(position): reason for position, reason in reasons.items()}
    return [_put_back(v, positions[i]) if i in positions else v for i, v in enumerate(value)]
