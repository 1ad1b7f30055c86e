"""The Python files in configs/: how `--config` finds them, and how they start from each other."""

import collections
import contextlib
import difflib
import importlib.util
import pathlib
import re
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType

from ml_collections import ConfigDict

from vae_jax.config.keys import leaves
from vae_jax.errors import InputError, UserError

CONFIG_FLAG = re.compile("--?config(=|$)")
KEY_FLAG = re.compile(r"--?(?:no)?config\.([^=\[]+)")


def config_directory() -> pathlib.Path:
    """Returns configs/ of the installed package, or of the repository if there is none."""
    package = pathlib.Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str | pathlib.Path) -> pathlib.Path:
    """Returns the Python file that `--config` names.

    Args:
      name: path of a Python file, or a name in configs/ such as 'demo'.

    Raises:
      InputError: there is no such file.
    """
    path = pathlib.Path(name)
    if path.is_file() and path.suffix == ".py":
        return path
    shipped = config_directory() / f"{name}.py"
    if path.suffix == "" and not path.is_absolute() and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in config_directory().glob("*.py") if p.stem != "__init__")
    raise InputError(
        f"--config={name}: no such Python file. Give the path of one, or a name of: "
        f"{', '.join(names)}."
    )


def named_config(name: str, *arguments: object) -> ConfigDict:
    """Returns the configuration of this name in configs/; its get_config gets the `arguments`.

    A configuration uses this to start from another one, wherever the package is installed.

    Raises:
      InputError: there is no such file, it has an error, or get_config returns something else.
    """
    path = find_config(name)
    module = load_module(path, ("get_config",), "demo.py")
    with _blamed_on(path):
        config = module.get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={path}: get_config returned a value of type {type(config).__name__}, and "
            "must return a ConfigDict: see demo.py."
        )
    return config


@contextlib.contextmanager
def _blamed_on(path: pathlib.Path) -> Iterator[None]:
    """Turns an error in the Python file of a configuration into one that says where it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(
            f"--config={path} has an error{where}: {type(error).__name__}: {error}"
        ) from error


def replace_config_name(argv: Sequence[str]) -> list[str]:
    """Returns the command-line arguments with the name after `--config` replaced by its path."""
    replaced = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            file, colon, rest = value.partition(":")
            replaced[i] = f"{flag}={find_config(file)}{colon}{rest}"
        elif i + 1 < len(argv):
            file, colon, rest = argv[i + 1].partition(":")
            replaced[i + 1] = f"{find_config(file)}{colon}{rest}"
    return replaced


def check_flags(argv: Sequence[str]) -> None:
    """Checks the file after `--config`, and that it has the keys of flags such as `--config.seed`.

    Args:
      argv: command-line arguments, as `replace_config_name` returns them.

    Raises:
      InputError: the file has an error, or there is no such key.
    """
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    values = [flag.partition("=")[2] or after for flag, after in pairs if CONFIG_FLAG.match(flag)]
    if not values or not values[-1]:
        return
    file, colon, rest = values[-1].partition(":")
    config = named_config(file, *([rest] if colon else []))
    flags = [KEY_FLAG.fullmatch(argument.partition("=")[0]) for argument in argv]
    given = collections.Counter(match[1] for match in flags if match)
    for key, value in leaves(config):
        if isinstance(value, tuple) and given[key] > 1:
            raise InputError(
                f"--config.{key} is given {given[key]} times, and the values would be joined: give "
                f"it once, with all values, such as --config.{key}='{value}'."
            )
    known = [key for key, _ in leaves(config)]
    for key in [match[1] for match in map(KEY_FLAG.match, argv) if match]:
        if key not in known and not any(other.startswith(f"{key}.") for other in known):
            similar = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {similar[0]}?" if similar else "See its get_config."
            raise InputError(f"--config.{key}: {file} has no key {key!r}. {remedy}")


def load_module(path: str | pathlib.Path, functions: tuple[str, ...], example: str) -> ModuleType:
    """Imports the Python file that a command was given as `--config`.

    Args:
      path: path of the file, or a name in configs/.
      functions: names of the functions that the file must define.
      example: a file that defines them, named in the error message.

    Raises:
      InputError: there is no such file, it has an error, or it lacks one of the functions.
    """
    path = find_config(path)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification and specification.loader  # true of every .py file
    module = importlib.util.module_from_spec(specification)
    with _blamed_on(path):
        specification.loader.exec_module(module)
    missing = [name for name in functions if not hasattr(module, name)]
    if missing:
        raise InputError(f"--config={path} lacks {' and '.join(missing)}: see {example}.")
    return module
