"""CIFAR-10, from TensorFlow Datasets."""

import tarfile

import numpy as np
from PIL import Image


def builder() -> type:
    """TFDS's CIFAR-10, unpacked by `tarfile`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification.cifar import Cifar10

    with tfds.core.registered.skip_registration():

        class TensorFlowFreeCifar10(Cifar10):
            name = "cifar10"
            url_infos = None

            def _split_generators(self, dl_manager):
                info = self._cifar_info
                archive = dl_manager.download(info.url)
                files = {"train": info.train_files, "test": info.test_files}
                return {
                    split: self._generate_examples(split, archive, [info.prefix + n for n in names])
                    for split, names in files.items()
                }

            def _generate_examples(self, split, archive, members):
                with tarfile.open(archive) as tar:
                    data = b"".join(tar.extractfile(member).read() for member in members)
                # A record is one byte of label and the red, green and blue planes of 32 x 32.
                records = np.frombuffer(data, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                for index, (image, label) in enumerate(zip(images, records[:, 0], strict=True)):
                    image = Image.fromarray(np.ascontiguousarray(image))
                    example_id = f"{split}_{index:05d}"
                    yield index, {"id": example_id, "image": image, "label": label}

    return TensorFlowFreeCifar10
