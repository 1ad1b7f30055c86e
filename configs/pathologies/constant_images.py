"""Every twentieth image is black."""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "constant_images"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    train, test = train.copy(), test.copy()
    train[::20], test[::20] = 0, 0
    return train, test


def get_config() -> ConfigDict:
    """The short base: the fault is in the images."""
    return named_config("pathologies/base", 100)
