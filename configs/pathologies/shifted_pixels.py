"""Test images 40 levels brighter than those of training."""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "shifted_pixels"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    return train, np.minimum(test.astype(int) + 40, 255).astype(np.uint8)


def get_config() -> ConfigDict:
    """The short base: the fault is in the images."""
    return named_config("pathologies/base", 100)
