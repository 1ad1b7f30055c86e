"""Every twentieth image is black.

The doctor looks at the images themselves; the model is only trained for a few steps.
"""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "constant_images"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    train, test = train.copy(), test.copy()
    train[::20], test[::20] = 0, 0
    return train, test


def get_config() -> ConfigDict:
    """Returns the base with few steps, because the fault is in the images."""
    return named_config("pathologies/base", 100)
