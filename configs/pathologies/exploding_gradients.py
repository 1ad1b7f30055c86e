"""A mixture of logistics at 300 times the learning rate, no warm-up, no clipping."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "exploding_gradients"


def get_config() -> ConfigDict:
    """The base with that one fault."""
    config = named_config("pathologies/base")
    config.likelihood.name = "discretized_logistic_mixture"
    config.optim.learning_rate *= 300
    config.optim.warmup_steps = 0
    return config
