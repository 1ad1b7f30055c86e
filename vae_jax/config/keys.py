"""The keys of a configuration: its values by dotted key, and a copy with other values."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from vae_jax.errors import InputError
from vae_jax.registry import show


def leaves(tree: Mapping[str, Any] | ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for all values of nested mappings, however deep they are."""
    remaining: list[tuple[str, Any]] = [("", tree)]
    while remaining:
        key, value = remaining.pop()
        if isinstance(value, Mapping | ConfigDict):
            prefix = key and f"{key}."
            remaining += [(f"{prefix}{name}", _get(value, name)) for name in reversed([*value])]
        else:
            yield key, value


def _get(tree: Mapping[str, Any] | ConfigDict, name: str) -> Any:
    try:
        return tree[name]
    except config_dict.RequiredValueError:  # a placeholder that nobody filled in
        return None


def flatten(tree: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Joins nested keys by dots: {'a': {'b': 1}} -> {'a.b': 1}; tuples become lists, as in JSON."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in leaves(tree)}


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked copy of a configuration with other values.

    Args:
      config: configuration, which stays as it is.
      changes: values by dotted key.

    Raises:
      InputError: there is no such key, or the value is of another type.
    """
    config = copy.deepcopy(config).lock()
    for key, value in changes.items():
        try:
            config.update_from_flattened_dict({key: value})
        except (KeyError, TypeError, OverflowError) as error:
            raise InputError(f"{key} = {show(value)} cannot be set: {error.args[0]}.") from error
    return config
