"""A KL warm-up of 4000 steps in a run of 400, as if the number of steps had been lowered alone.

The KL weight ends at a tenth of what was asked for.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "unfinished_warmup"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.kl.warmup_steps = 10 * config.train.num_steps
    return config
