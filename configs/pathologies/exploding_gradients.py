"""A mixture of logistics at 300 times the learning rate, no warm-up, no clipping.

The norm of the gradient rises far above its median over the run.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "exploding_gradients"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.likelihood.name = "discretized_logistic_mixture"
    config.optim.learning_rate *= 300
    config.optim.warmup_steps = 0
    return config
