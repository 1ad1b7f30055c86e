"""Test images 40 levels brighter than those of training.

The splits do not have the same distribution. The training is short.
"""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "shifted_pixels"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    return train, np.minimum(test.astype(int) + 40, 255).astype(np.uint8)


def get_config() -> ConfigDict:
    """Returns the base with few steps, because the fault is in the images."""
    return named_config("pathologies/base", 100)
