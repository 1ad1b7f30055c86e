"""Configurations: their keys, their files, their rules."""

from vae_jax.config.checks import AUTO, DTYPES, POSITIVE_KEYS, REDUCTIONS, check_values
from vae_jax.config.files import (
    ADDED_KEYS,
    CONFIG_FILE,
    DATA_HASH,
    check_same_data,
    check_unchanged,
    config_directory,
    find_config,
    flatten,
    load,
    load_image_shape,
    load_module,
    named_config,
    replace_config_name,
    save,
    with_batch_size_of,
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
    "config_directory",
    "find_config",
    "flatten",
    "load",
    "load_image_shape",
    "load_module",
    "named_config",
    "replace_config_name",
    "save",
    "with_batch_size_of",
]
