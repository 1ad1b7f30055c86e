"""Registries: the kinds of a component by name, each with its options.

The file of a kind registers it, and a room imports all of its files, so a new kind is one new file.
A script can register a kind of its own as well.
"""

import collections
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from vae_jax.errors import InputError

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a kind: the rule for its values in words ('must be positive'), and as a test."""

    rule: str | Callable[[], str] = ""
    holds: Callable[[Any], bool] = lambda value: True

    def check(self, key: str, value: object) -> None:
        """Raises an InputError that names the key if the value breaks the rule."""
        if not self.holds(value):
            rule = self.rule if isinstance(self.rule, str) else self.rule()
            raise InputError(f"{key} = {value!r} {rule}.")


def at_least(minimum: int) -> Option:
    """Returns an option that is a number, at least `minimum`."""
    return Option(f"must be at least {minimum}", lambda value: value >= minimum)


def one_of(names: Iterable[str]) -> Option:
    """Returns an option that is one of `names`, which may be a registry that still grows."""
    return Option(lambda: f"is unknown: use one of {', '.join(names)}", lambda name: name in names)


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

    def __getitem__(self, name: str) -> Kind:
        """Returns a kind; raises an InputError if the name is unknown."""
        one_of(self).check(f"{self._section}.{self._key}", name)
        return self._kinds[name]

    def check(self, values: Mapping[str, Any]) -> None:
        """Checks the name and the options, also those of kinds that are not selected.

        If several kinds have an option, the rule of the selected one counts, otherwise that of the
        first.

        Raises an InputError if a rule is broken, and a TypeError if no kind has such an option.
        """
        name = values[self._key]
        self[name]
        rules = collections.ChainMap(self._options[name], *self._options.values())
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
