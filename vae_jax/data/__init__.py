"""Datasets, stored as memory-mapped uint8 arrays, and the order in which their images are used.

A dataset is a directory with `{train,test}_images.npy` (uint8 `[N, H, W, C]`, 0 to 255) and,
optionally, `{train,test}_labels.npy` (uint8 `[N]`) and `validation_images.npy`. Named datasets are
decoded into such a directory once; any other directory of such arrays is used as it is.

    python -m vae_jax.data fashion_mnist     # prepares the dataset and prints its splits
"""

from vae_jax.data.batches import fixed_order as fixed_order
from vae_jax.data.batches import make_batch_indices as make_batch_indices
from vae_jax.data.datasets import DEFAULT_DATA_DIR as DEFAULT_DATA_DIR
from vae_jax.data.datasets import class_name as class_name
from vae_jax.data.datasets import dataset_directory as dataset_directory
from vae_jax.data.datasets import is_path as is_path
from vae_jax.data.datasets import locate as locate
from vae_jax.data.datasets import prepare as prepare
from vae_jax.data.splits import SPLITS as SPLITS
from vae_jax.data.splits import Dataset as Dataset
from vae_jax.data.splits import ImagesChangedError as ImagesChangedError
from vae_jax.data.splits import Split as Split
from vae_jax.data.splits import hash_images as hash_images
from vae_jax.data.splits import load_split as load_split
from vae_jax.data.unchanged import UnchangedImages as UnchangedImages
