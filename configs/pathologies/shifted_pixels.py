"""Test images 40 levels brighter than those of training."""

import numpy as np
from ml_collections import ConfigDict

from configs.pathologies import base

EXPECTED = "shifted_pixels"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] of both files."""
    return train, np.minimum(test.astype(int) + 40, 255).astype(np.uint8)


def get_config() -> ConfigDict:
    """The base, for fewer steps: the fault is in the images."""
    config = base.get_config()
    config.train.num_steps = 100
    config.train.log_every_steps = 10
    config.train.eval_every_steps = 100
    config.train.checkpoint_every_steps = 100
    return config
