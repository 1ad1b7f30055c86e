"""A tenth of the test images is taken from training."""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "duplicated_images"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    test = test.copy()
    test[::10] = train[: len(test[::10])]
    return train, test


def get_config() -> ConfigDict:
    """The short base: the fault is in the images."""
    return named_config("pathologies/base", 100)
