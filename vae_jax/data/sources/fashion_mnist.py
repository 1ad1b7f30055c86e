"""Fashion-MNIST: its TensorFlow Datasets builder, which can read Debian's copy of the files."""

import gzip
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vae_jax.data.sources.base import Source, register

# Directory in which Debian's package `dataset-fashion-mnist` installs the original IDX files.
DEBIAN_DIRECTORY = pathlib.Path("/usr/share/datasets/fashion-mnist")
_SPLIT_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
IDX_FILES = [file for pair in _SPLIT_FILES.values() for file in pair]


@register("fashion_mnist")
class FashionMnist(Source):
    """Fashion-MNIST, from Debian's files if they are installed."""

    class_names = (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    )

    @property
    def local_directory(self) -> pathlib.Path | None:
        found = all((DEBIAN_DIRECTORY / file).exists() for file in IDX_FILES)
        return DEBIAN_DIRECTORY if found else None

    def builder(self) -> type:
        return _builder(self.local_directory)

    def more_ways(self, tfds_directory: pathlib.Path) -> list[str]:
        return ["apt-get install dataset-fashion-mnist (Debian, Ubuntu)"]


def _builder(local_directory: pathlib.Path | None) -> type:
    """Returns TFDS's Fashion-MNIST builder, which reads the files in `local_directory` if given.

    Debian's files are recompressed. Their images are the same, but their checksums differ from
    those that TFDS expects of a download, so a local directory bypasses the download.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification.mnist import FashionMNIST

    with tfds.core.registered.skip_registration():

        class LocalFashionMNIST(FashionMNIST):
            name = "fashion_mnist"
            url_infos = None

            def _split_generators(self, dl_manager: Any) -> Any:
                if local_directory is None:
                    urls = {file: self.URL + file for file in IDX_FILES}
                    paths = dl_manager.download(urls)
                else:
                    paths = {file: local_directory / file for file in IDX_FILES}
                return {
                    split: self._generate_examples(paths[images], paths[labels])
                    for split, (images, labels) in _SPLIT_FILES.items()
                }

            def _generate_examples(
                self, images_path: os.PathLike, labels_path: os.PathLike
            ) -> Iterator[tuple[int, dict[str, Any]]]:
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
