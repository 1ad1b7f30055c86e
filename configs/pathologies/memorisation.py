"""Thirty training images, and a code just large enough to tell them apart: samples are copies."""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "memorisation"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    return train[:1030], test


def get_config() -> ConfigDict:
    """Returns the base with a small code and a variance that does not shrink with the error."""
    config = named_config("pathologies/base")
    config.model.latent_shape = (4,)
    config.likelihood.gaussian_variance = "fixed"
    config.likelihood.gaussian_std = 0.2
    return config
