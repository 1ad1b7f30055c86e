"""Forty steps at a constant learning rate.

The validation ELBO still rises steeply when the training ends.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "undertrained"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.optim.decay = "constant"
    config.kl.warmup_steps = 0
    config.train.num_steps = 40
    config.train.log_every_steps = 2
    config.train.eval_every_steps = 10
    config.train.checkpoint_every_steps = 40
    return config
