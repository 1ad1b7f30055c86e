"""What the commands with absl flags share."""

import sys

from absl import flags


def show_in_help(module: str, text: str) -> None:
    """Makes --help show the flags that `module` has defined, below `text`.

    absl shows the flags and the docstring of the script that was started, which defines none.
    """
    sys.modules["__main__"].__doc__ = text
    for flag in flags.FLAGS.get_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
