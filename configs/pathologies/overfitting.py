"""Three hundred training images.

The ELBO of training images rises far above that of validation images.
"""

import numpy as np
from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "overfitting"


def spoil(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spoilt images of the training and the test file, uint8 [N, H, W, C]."""
    return train[:1300], test


def get_config() -> ConfigDict:
    """Returns the base; the fault is in the images."""
    return named_config("pathologies/base")
