"""Preparation of the named datasets as arrays, from TensorFlow Datasets (TFDS) or Debian's files.

TFDS reads and writes `array_record` without TensorFlow, but its builders use TensorFlow to unpack
archives and to encode images. The subclasses in this package do both with the standard library and
Pillow, so that a machine without TensorFlow prepares the same data.

The subclasses also set `url_infos`, the checksums of the downloads (None: those in TFDS's common
list), because TFDS 4.9.10 would look them up with `importlib_resources`, which it does not require.
All imports of TFDS are inside functions, so that reading existing arrays does not need it.
"""

from vae_jax.data.sources.base import REGISTRY as REGISTRY
from vae_jax.data.sources.base import Source as Source
from vae_jax.data.sources.base import create_source as create_source
from vae_jax.data.sources.base import names as names
from vae_jax.data.sources.base import register as register
from vae_jax.data.sources.preparation import prepare_arrays as prepare_arrays
from vae_jax.registry import import_modules

import_modules(__name__, __path__, first=("fashion_mnist", "cifar10", "celeb_a"))
