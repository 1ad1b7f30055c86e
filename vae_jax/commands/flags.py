"""Help texts of commands that use absl flags."""

import sys

from absl import flags


def show_in_help(module: str, text: str | None) -> None:
    """Makes --help show `text`, and below it the flags that `module` defines.

    The text is None under `python -OO`. By itself absl shows the docstring and the flags of the
    script that was started, which has no flags.
    """
    sys.modules["__main__"].__doc__ = text
    for flag in flags.FLAGS.get_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
