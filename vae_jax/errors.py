"""Errors that a user can cause and fix; their messages name the remedy.

Commands print such an error as one line. Any other exception is a defect and shows its traceback.
"""


class UserError(Exception):
    """Base class of all errors that a user can cause; the message says what to do."""


class InputError(UserError, ValueError):
    """A value breaks a rule; the message names the key, the value, the rule and the remedy."""


class NotFoundError(UserError, FileNotFoundError):
    """A run, a checkpoint or a file does not exist."""


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the message names it."""


def check_integer(key: str, value: int, minimum: int) -> None:
    """Raises an InputError unless `value` is an integer of at least `minimum`."""
    if not hasattr(value, "__index__") or value < minimum:
        raise InputError(f"{key}={value!r}: must be an integer, at least {minimum}.")
