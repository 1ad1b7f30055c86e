"""Help texts and errors of commands that use absl flags."""

import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags

from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.runtime import process


def show_in_help(module: str, text: str | None) -> None:
    """Makes --help show `text`, and below it the flags that `module` defines.

    The text is None under `python -OO`. By itself absl shows the docstring and the flags of the
    script that was started, which has no flags.
    """
    sys.modules["__main__"].__doc__ = text
    for flag in flags.FLAGS.get_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags and returns what is left; ends the process with one line if one is wrong."""
    with process.exit_on_user_error(pathlib.Path(argv[0]).name):
        try:
            return flags.FLAGS(argv)
        except Exception as error:  # ml_collections raises errors of all kinds
            text = " ".join(str(error).split())
            key = re.match(r"flag --config\.([^=]+)", text)
            if key and key[1] in configuration.rules():
                text += f" ({key[1]} {configuration.rules()[key[1]].describe()})"
            raise InputError(text) from error
