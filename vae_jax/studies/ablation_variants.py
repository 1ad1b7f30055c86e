"""The variants of an ablation: changes to a base configuration, and the runs that they share."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import experiment
from vae_jax.errors import InputError

BASE = "base"
# Group -> variant -> changes to the base configuration, by dotted key.
Groups: TypeAlias = Mapping[str, Mapping[str, Mapping[str, object]]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant, which is one row of the table.

    Attributes:
      group: name of its group in `get_groups()`.
      name: name of the variant within the group.
      changes: changes to the base configuration, by dotted key.
      run: directory of its runs below runs/; variants with the same configuration share it.
      config: configuration of the runs, except for the seed.
    """

    group: str
    name: str
    changes: dict[str, object]
    run: str
    config: ConfigDict


def changed(base: ConfigDict, changes: Mapping[str, object], where: str) -> ConfigDict:
    """Returns a locked copy of `base` with `changes` applied.

    Args:
      base: base configuration.
      changes: new values by dotted key.
      where: name of the variant, for error messages.

    Raises:
      InputError: a key is unknown or a value breaks a rule.
    """
    unknown = changes.keys() - configuration.flatten(base).keys()
    if unknown:
        raise InputError(
            f"{where} changes {', '.join(sorted(unknown))}, which the base does not have: use keys "
            "from vae_jax/config/defaults.py."
        )
    try:
        config = configuration.with_changes(base, changes)
        experiment.validate(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    return config


def make_rows(base: ConfigDict, groups: Groups) -> list[Row]:
    """Makes one row per variant, in the order of the groups.

    Raises:
      InputError: a name cannot be used for a directory, a key is unknown, or a value breaks a rule.
    """
    runs = {json.dumps(configuration.flatten(base)): BASE}
    rows = []
    for group, variants in groups.items():
        for name, changes in variants.items():
            if not re.fullmatch(r"\w+", group) or not re.fullmatch(r"[\w.+-]+", name):
                raise InputError(
                    f"group {group!r}, variant {name!r}: both become part of the name of a "
                    "directory; use letters, digits and _, in the variant also . + -"
                )
            config = changed(base, changes, f"group {group!r}, variant {name!r}")
            identity = json.dumps(configuration.flatten(config))
            run = runs.setdefault(identity, f"{group}-{name}")
            rows.append(Row(group, name, dict(changes), run, config))
    return rows
