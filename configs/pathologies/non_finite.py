"""A learning rate that overflows float32 within a few steps.

Its updates are skipped because their gradients are not finite.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "non_finite_gradients"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.optim.learning_rate = 1e20
    config.train.log_every_steps = 1
    return config
