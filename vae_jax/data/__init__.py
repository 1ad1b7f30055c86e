"""Datasets, stored as memory-mapped uint8 arrays, and the order in which their images are used.

A dataset is a directory with `{train,test}_images.npy` (uint8 `[N, H, W, C]`, 0 to 255) and,
optionally, `{train,test}_labels.npy` (uint8 `[N]`) and `validation_images.npy`. Named datasets are
decoded into such a directory once; any other directory of such arrays is used as it is.

    python -m vae_jax.data fashion_mnist     # prepares the dataset and prints its splits
"""

from vae_jax.data.batches import fixed_order, make_batch_indices
from vae_jax.data.datasets import DEFAULT_DATA_DIR, class_name, dataset_directory, describe, prepare
from vae_jax.data.splits import SPLITS, Dataset, Split, hash_images, load_split

__all__ = [
    "DEFAULT_DATA_DIR",
    "SPLITS",
    "Dataset",
    "Split",
    "class_name",
    "dataset_directory",
    "describe",
    "fixed_order",
    "hash_images",
    "load_split",
    "make_batch_indices",
    "prepare",
]
