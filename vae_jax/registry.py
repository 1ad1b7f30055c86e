"""Registries: the kinds of a component by name, each with its options.

The file of a kind registers it, and a room imports all of its files, so a new kind is one new file.
A script can register a kind of its own as well.
"""

import collections
import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from vae_jax.errors import InputError

Kind = TypeVar("Kind")


MAX_SHOWN = 200  # characters of a value in a message
MAX_TEXT = 1000  # characters


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a kind: the rule for its values in words ('must be positive'), and as a test.

    A test may assume the type that it expects: a value on which it fails breaks the rule.
    """

    rule: str | Callable[[], str] = ""
    holds: Callable[[Any], bool] = lambda value: True

    def check(self, key: str, value: object) -> None:
        """Raises an InputError that names the key if the value, of any type, breaks the rule."""
        try:
            holds = bool(self.holds(value))
        except Exception:  # such as the TypeError of 'abc' >= 1
            holds = False
        if not holds:
            raise InputError(f"{key} = {show(value)} {self.describe()}.")

    def describe(self) -> str:
        """Returns the rule in words, such as 'must be positive'."""
        return self.rule if isinstance(self.rule, str) else self.rule()


def show(value: object) -> str:
    """Returns a value as text for a message, shortened if it is long."""
    try:
        text = repr(value)
    except Exception:  # such as that of an integer with more than 4300 digits
        text = f"(a value of type {type(value).__name__})"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _is_integer(value: Any, minimum: int, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def integer(minimum: int, maximum: int, note: str = "") -> Option:
    """Returns an option that is an integer in a range; `note` ends the rule, such as '0: all'."""
    return Option(
        f"must be an integer from {minimum:,} to {maximum:,}{note and f' ({note})'}",
        lambda value: _is_integer(value, minimum, maximum),
    )


def number(minimum: float, maximum: float, note: str = "") -> Option:
    """Returns an option that is a finite number in a range; `note` ends the rule."""
    return Option(
        f"must be a number from {minimum:g} to {maximum:g}{note and f' ({note})'}",
        lambda value: (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and minimum <= value <= maximum  # which NaN is not
        ),
    )


def integers(
    minimum: int, maximum: int, lengths: Container[int], length_rule: str, max_product: int = 0
) -> Option:
    """Returns an option that is a tuple of integers in a range.

    Args:
      minimum, maximum: range of each integer.
      lengths: how many integers the tuple may have.
      length_rule: `lengths` in words, put before 'integers'.
      max_product: largest product of the integers; 0: no limit.
    """
    product = f", with a product of at most {max_product:,}" if max_product else ""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) in lengths
            and all(_is_integer(item, minimum, maximum) for item in value)
            and not (max_product and math.prod(value) > max_product)
        )

    rule = f"must be a tuple of {length_rule} integers from {minimum:,} to {maximum:,}{product}"
    return Option(rule, holds)


def flag() -> Option:
    """Returns an option that is True or False."""
    return Option("must be True or False", lambda value: isinstance(value, bool))


def text(may_be_empty: bool = False) -> Option:
    """Returns an option that is a text, such as a name or a path."""
    minimum = 0 if may_be_empty else 1
    return Option(
        f"must be a text of {minimum} to {MAX_TEXT:,} printable characters",
        lambda value: (
            isinstance(value, str) and value.isprintable() and minimum <= len(value) <= MAX_TEXT
        ),
    )


def at_least(minimum: int) -> Option:
    """Returns an option that is a number, at least `minimum`."""
    return Option(f"must be at least {minimum}", lambda value: value >= minimum)


def one_of(names: Iterable[str]) -> Option:
    """Returns an option that is one of `names`, which may be a registry that still grows."""
    return Option(
        lambda: f"is unknown: use one of {', '.join(names)}",
        lambda name: isinstance(name, str) and name in names,
    )


class Registry(Generic[Kind]):
    """The kinds of a component, in the order of registration; `section`.`key` selects one."""

    def __init__(self, section: str, key: str = "name") -> None:
        self._section, self._key = section, key
        self._kinds: dict[str, Kind] = {}
        self._options: dict[str, dict[str, Option]] = {}

    def register(self, name: str, **options: Option) -> Callable[[Kind], Kind]:
        """Returns a decorator that registers a kind; raises an InputError if the name is taken."""

        def add(kind: Kind) -> Kind:
            if name in self._kinds:
                raise InputError(f"{self._section}.{self._key} = {name!r} is taken.")
            self._kinds[name], self._options[name] = kind, options
            return kind

        return add

    def unregister(self, name: str) -> None:
        """Removes a kind."""
        del self._kinds[name], self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all kinds."""
        return tuple(self)

    def names_with(self, option: str) -> tuple[str, ...]:
        """Returns the names of the kinds that have an option."""
        return tuple(name for name in self if option in self._options[name])

    def keys(self) -> set[str]:
        """Returns the configuration's keys of all options, such as 'prior.widths'."""
        return {f"{self._section}.{key}" for options in self._options.values() for key in options}

    def rules(self, name: str = "") -> Mapping[str, Option]:
        """Returns the rules of all options, by option.

        If several kinds have an option, the rule of the kind `name` counts, otherwise that of the
        first.
        """
        return collections.ChainMap(self._options.get(name, {}), *self._options.values())

    def __getitem__(self, name: str) -> Kind:
        """Returns a kind; raises an InputError if the name is unknown."""
        one_of(self).check(f"{self._section}.{self._key}", name)
        return self._kinds[name]

    def check(self, values: Mapping[str, Any]) -> None:
        """Checks the name and the options, also those of kinds that are not selected; see `rules`.

        Raises an InputError if a rule is broken, and a TypeError if no kind has such an option.
        """
        name = values[self._key]
        self[name]
        rules = self.rules(name)
        for key, value in values.items():
            if key == self._key:
                continue
            if key not in rules:
                raise TypeError(f"no {self._section} has the option {key!r}")
            rules[key].check(f"{self._section}.{key}", value)

    def options_of(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of `values` that are options of the kind `name`."""
        self[name]
        return {key: values[key] for key in self._options[name] if key in values}


def import_modules(package: str, path: Iterable[str], first: Sequence[str] = ()) -> None:
    """Imports all modules in a package, so that their kinds are registered.

    Args:
      package: name of the package.
      path: its `__path__`.
      first: modules whose kinds come first, in messages and comparisons.
    """
    for name in (*first, *(module.name for module in pkgutil.iter_modules(path))):
        importlib.import_module(f"{package}.{name}")
