"""Three hundred training images."""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "overfitting"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    return train[:1300], test


def get_config() -> ConfigDict:
    """The base on few images."""
    return named_config("pathologies/base")
