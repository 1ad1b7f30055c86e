"""Every twentieth image is black."""

import numpy as np
from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "constant_images"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    train, test = train.copy(), test.copy()
    train[::20], test[::20] = 0, 0
    return train, test


def get_config() -> ConfigDict:
    """The base, for fewer steps: the fault is in the images."""
    config = base.get_config()
    config.train.num_steps = 100
    config.train.log_every_steps = 10
    config.train.eval_every_steps = 100
    config.train.checkpoint_every_steps = 100
    return config
