"""The Python files in configs/: how `--config` finds them, and how they start from each other."""

import importlib.util
import pathlib
from collections.abc import Sequence
from types import ModuleType

from ml_collections import ConfigDict

from vae_jax.errors import InputError


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
    """
    return load_module(find_config(name), ("get_config",), "demo.py").get_config(*arguments)


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


def load_module(path: str | pathlib.Path, functions: tuple[str, ...], example: str) -> ModuleType:
    """Imports the Python file that a command was given as `--config`.

    Args:
      path: path of the file, or a name in configs/.
      functions: names of the functions that the file must define.
      example: a file that defines them, named in the error message.

    Raises:
      InputError: there is no such file, or it lacks one of the functions.
    """
    path = find_config(path)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification and specification.loader  # true of every .py file
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    missing = [name for name in functions if not hasattr(module, name)]
    if missing:
        raise InputError(f"--config={path} lacks {' and '.join(missing)}: see {example}.")
    return module
