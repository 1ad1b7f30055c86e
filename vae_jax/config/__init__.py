"""The configuration of a run.

`defaults` lists its keys with their default values, `schema` has the rule of each key, and `checks`
the rules for values that must agree. `files` finds the Python files in configs/, `workdir` reads
and writes config.json, and `resume` says what may change when a run is resumed.
"""

from vae_jax.config.checks import check_values as check_values
from vae_jax.config.checks import options as options
from vae_jax.config.files import check_flags as check_flags
from vae_jax.config.files import find_config as find_config
from vae_jax.config.files import load_module as load_module
from vae_jax.config.files import named_config as named_config
from vae_jax.config.files import replace_config_name as replace_config_name
from vae_jax.config.keys import flatten as flatten
from vae_jax.config.keys import with_changes as with_changes
from vae_jax.config.resume import changed_keys as changed_keys
from vae_jax.config.resume import check_same_data as check_same_data
from vae_jax.config.resume import check_unchanged as check_unchanged
from vae_jax.config.resume import complete as complete
from vae_jax.config.resume import history_entry as history_entry
from vae_jax.config.schema import AUTO as AUTO
from vae_jax.config.schema import DTYPES as DTYPES
from vae_jax.config.schema import REDUCTIONS as REDUCTIONS
from vae_jax.config.schema import check_each_value as check_each_value
from vae_jax.config.schema import rules as rules
from vae_jax.config.workdir import ADDED_KEYS as ADDED_KEYS
from vae_jax.config.workdir import CONFIG_FILE as CONFIG_FILE
from vae_jax.config.workdir import DATA_HASH as DATA_HASH
from vae_jax.config.workdir import load as load
from vae_jax.config.workdir import load_data_hash as load_data_hash
from vae_jax.config.workdir import load_image_shape as load_image_shape
from vae_jax.config.workdir import load_start as load_start
from vae_jax.config.workdir import save as save
from vae_jax.config.workdir import update as update
