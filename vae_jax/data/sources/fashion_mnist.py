"""Fashion-MNIST, from Debian's files or TensorFlow Datasets."""

import gzip
import os
import pathlib

import numpy as np
from PIL import Image

# Where Debian's package `dataset-fashion-mnist` installs the original IDX files.
DEBIAN_DIRECTORY = pathlib.Path("/usr/share/datasets/fashion-mnist")
_FILES_OF_SPLIT = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
IDX_FILES = [file for pair in _FILES_OF_SPLIT.values() for file in pair]


def builder(local_directory: pathlib.Path | None = None) -> type:
    """TFDS's Fashion-MNIST, from the files in `local_directory` if given, otherwise downloaded.

    Debian's files are recompressed, so they differ from the checksums which TFDS has of its
    downloads although the images are the same: a local directory goes around the download.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification.mnist import FashionMNIST

    with tfds.core.registered.skip_registration():

        class LocalFashionMNIST(FashionMNIST):
            name = "fashion_mnist"
            url_infos = None

            def _split_generators(self, dl_manager):
                if local_directory is None:
                    urls = {file: self.URL + file for file in IDX_FILES}
                    paths = dl_manager.download(urls)
                else:
                    paths = {file: local_directory / file for file in IDX_FILES}
                return {
                    split: self._generate_examples(paths[images], paths[labels])
                    for split, (images, labels) in _FILES_OF_SPLIT.items()
                }

            def _generate_examples(self, images_path, labels_path):
                pairs = zip(_read_idx(images_path), _read_idx(labels_path), strict=True)
                for index, (image, label) in enumerate(pairs):
                    yield index, {"image": Image.fromarray(image), "label": label}

    return LocalFashionMNIST


def _read_idx(path: os.PathLike) -> np.ndarray:
    """Reads a gzipped IDX file of bytes (LeCun, http://yann.lecun.com/exdb/mnist)."""
    with gzip.open(path) as file:
        data = file.read()
    num_dimensions = data[3]
    shape = np.frombuffer(data, ">u4", count=num_dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)
