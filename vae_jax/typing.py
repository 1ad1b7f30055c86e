"""Type aliases that annotations share."""

from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
PyTree: TypeAlias = Any  # nested containers of arrays, such as parameters
ImageShape: TypeAlias = tuple[int, int, int]  # (height, width, channels)
