"""The configuration of a run.

`defaults` lists its keys with their default values, `checks` has the rules for the values, `files`
finds the Python files in configs/, and `workdir` reads and writes config.json.
"""

from vae_jax.config.checks import AUTO, DTYPES, POSITIVE_KEYS, REDUCTIONS, check_values, options
from vae_jax.config.files import (
    config_directory,
    find_config,
    load_module,
    named_config,
    replace_config_name,
)
from vae_jax.config.workdir import (
    ADDED_KEYS,
    CONFIG_FILE,
    DATA_HASH,
    check_same_data,
    check_unchanged,
    complete,
    flatten,
    load,
    load_image_shape,
    save,
    with_changes,
)

__all__ = [
    "ADDED_KEYS",
    "AUTO",
    "CONFIG_FILE",
    "DATA_HASH",
    "DTYPES",
    "POSITIVE_KEYS",
    "REDUCTIONS",
    "check_same_data",
    "check_unchanged",
    "check_values",
    "complete",
    "config_directory",
    "find_config",
    "flatten",
    "load",
    "load_image_shape",
    "load_module",
    "named_config",
    "options",
    "replace_config_name",
    "save",
    "with_changes",
]
