"""CIFAR-10: its TensorFlow Datasets builder."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vae_jax.data.sources.base import Source, register


@register("cifar10")
class Cifar10(Source):
    """CIFAR-10."""

    class_names = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def builder(self) -> type:
        return _builder()


def _builder() -> type:
    """Returns TFDS's CIFAR-10 builder, changed to unpack the archive with `tarfile`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification.cifar import Cifar10

    with tfds.core.registered.skip_registration():

        class TensorFlowFreeCifar10(Cifar10):
            name = "cifar10"
            url_infos = None

            def _split_generators(self, dl_manager: Any) -> Any:
                info = self._cifar_info
                archive = dl_manager.download(info.url)
                files = {"train": info.train_files, "test": info.test_files}
                return {
                    split: self._generate_examples(split, archive, [info.prefix + n for n in names])
                    for split, names in files.items()
                }

            def _generate_examples(
                self, split: str, archive: os.PathLike, members: Sequence[str]
            ) -> Iterator[tuple[int, dict[str, Any]]]:
                with tarfile.open(archive) as tar:
                    data = b"".join(_read_member(tar, member) for member in members)
                # A record is one byte of label and 32 x 32 bytes each of red, green and blue.
                records = np.frombuffer(data, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                for index, (pixels, label) in enumerate(zip(images, records[:, 0], strict=True)):
                    image = Image.fromarray(np.ascontiguousarray(pixels))
                    example_id = f"{split}_{index:05d}"
                    yield index, {"id": example_id, "image": image, "label": label}

    return TensorFlowFreeCifar10


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Returns the content of a regular file in an archive."""
    file = archive.extractfile(name)
    assert file is not None, f"{name} is not a regular file"
    return file.read()
