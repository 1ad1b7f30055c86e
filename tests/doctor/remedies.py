"""Checks that the doctor's recommendations can be appended to the command of train.py."""

import re
import shlex

from absl import flags
from ml_collections import ConfigDict, config_flags

from vae_jax import config as configuration
from vae_jax import experiment

# A value is quoted if a shell would interpret its characters.
FLAG = re.compile(r"--config\.[a-z0-9_.]+=(?:'[^']*'|[\w.+-]*\w)(?=$|[\s,;)])")


def build_run(config: ConfigDict) -> experiment.Experiment:
    """Builds the experiment for images of 28 x 28, or of the size that a latent grid has here."""
    height, width = 28, 28
    if len(config.model.latent_shape) == 3:
        factor = config.model.patch_size * 2 ** (len(config.model.widths) - 1)
        height, width = (factor * n for n in config.model.latent_shape[:2])
    return experiment.build(config, (height, width, 1))


def apply_remedy(remedy: str, config: ConfigDict) -> ConfigDict:
    """Returns the configuration that train.py makes from `config` and the flags of the remedy."""
    found = FLAG.findall(remedy)
    assert found and len(found) == remedy.count("--config"), remedy
    argv = ["train.py", *shlex.split(" ".join(found))]
    values = flags.FlagValues()
    copy = ConfigDict(config.to_dict())
    config_flags.DEFINE_config_dict("config", copy, flag_values=values, sys_argv=argv)
    values(argv)
    return values.config


def check_remedy(remedy: str, config: ConfigDict) -> None:
    """Asserts that its flags are configuration keys with valid values, and one value is new."""
    changed = apply_remedy(remedy, config)
    experiment.validate(changed)
    before, after = configuration.flatten(config.to_dict()), configuration.flatten(changed)
    assert after.keys() == before.keys()
    assert after != before, f"{remedy} changes nothing"
