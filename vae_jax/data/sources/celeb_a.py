"""CelebA: its TensorFlow Datasets builder, and the crop and resize of its images."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

CELEB_A_IMAGE_SIZE = (178, 218)  # width, height of the aligned images, in pixels


def crop_and_resize(image: np.ndarray, crop: int, image_size: int) -> np.ndarray:
    """Cuts out the central square and resizes it, as torchvision's `CenterCrop` and `Resize` do.

    Pillow's bilinear resize is antialiased: its triangle filter widens with the reduction. The crop
    comes first, so no pixel outside the square contributes.

    Args:
      image: uint8 `[H, W, 3]`.
      crop: side of the square in pixels, at most H and W.
      image_size: side of the result in pixels.

    Returns:
      uint8 `[image_size, image_size, 3]`.
    """
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    square = Image.fromarray(image[top : top + crop, left : left + crop])
    return np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))


def builder() -> type:
    """Returns TFDS's CelebA builder, changed to unpack the archive with `zipfile`.

    CelebA has a validation split and no labels.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    celeb_a: Any = tfds.builder_cls("celeb_a")
    with tfds.core.registered.skip_registration():

        class TensorFlowFreeCelebA(celeb_a):
            name = "celeb_a"
            url_infos = checksums.load_url_infos(celeb_a.pkg_dir_path / "checksums.tsv")
            pkg_dir_path = celeb_a.pkg_dir_path

            def _split_generators(self, dl_manager: Any) -> Any:
                dl_manager.iter_archive = _iter_zip
                return super()._split_generators(dl_manager)

    return TensorFlowFreeCelebA


@dataclasses.dataclass(frozen=True)
class _ZipMember:
    """A file in an archive, opened only while it is read: open handles would take gigabytes."""

    archive: zipfile.ZipFile
    name: str

    def read(self) -> bytes:
        """Returns the content of the file."""
        return self.archive.read(self.name)


def _iter_zip(path: os.PathLike) -> Iterator[tuple[str, _ZipMember]]:
    """Yields (name, file) for all files of a zip archive."""
    archive = zipfile.ZipFile(path)
    for name in archive.namelist():
        yield name, _ZipMember(archive, name)
