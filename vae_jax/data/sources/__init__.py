"""Preparation of the named datasets: from TensorFlow Datasets (TFDS) or Debian's files to arrays.

TFDS reads and writes `array_record` without TensorFlow, but its builders unpack archives and encode
images with it. The subclasses here do these two things with the standard library and Pillow, so
that a machine without TensorFlow prepares the same data. They also set `url_infos`, the checksums
of the downloads (None: those in TFDS's common list): TFDS 4.9.10 would look for them by means of
`importlib_resources`, which it does not require. All imports of TFDS are inside functions: who has
arrays already needs no TFDS.
"""

from vae_jax.data.sources.celeb_a import CELEB_A_IMAGE_SIZE
from vae_jax.data.sources.preparation import NAMES, prepare_arrays

__all__ = ["CELEB_A_IMAGE_SIZE", "NAMES", "prepare_arrays"]
