"""EMA 0.99999 without warm-up on a short run: the average is still near its initialisation.

Evaluation uses the average, so it evaluates nearly untrained parameters.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "ema_lags_behind"


def get_config() -> ConfigDict:
    """Returns the base with this one fault."""
    config = named_config("pathologies/base")
    config.optim.ema_decay = 0.99999
    config.optim.ema_warmup = False
    return config
