"""Images scaled to a quarter of the range.

The model assumes pixels that use the whole range. The training is short.
"""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "data_out_of_range"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    return train // 4, test // 4


def get_config() -> ConfigDict:
    """Returns the base with few steps, because the fault is in the images."""
    return named_config("pathologies/base", 100)
