"""A tenth of the test images is taken from training.

Test results on such images say little about new ones. The training is short.
"""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "duplicated_images"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    test = test.copy()
    test[::10] = train[: len(test[::10])]
    return train, test


def get_config() -> ConfigDict:
    """Returns the base with few steps, because the fault is in the images."""
    return named_config("pathologies/base", 100)
