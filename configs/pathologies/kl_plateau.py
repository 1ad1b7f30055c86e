"""A KL weight of 300 from the first step on: the loss is flat, the decoder ignores z."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "kl_plateau"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.kl.weight = 300.0
    config.kl.warmup_steps = 0
    return config
