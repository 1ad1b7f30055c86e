"""CelebA: its TensorFlow Datasets builder, and the crop and resize of its images."""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vae_jax.data.sources.base import Source, register
from vae_jax.registry import integer

CELEB_A_IMAGE_SIZE = (178, 218)  # width, height of the aligned images, in pixels


@register("celeb_a", crop=integer(1, min(CELEB_A_IMAGE_SIZE)), image_size=integer(1, 1024))
@dataclasses.dataclass(frozen=True)
class CelebA(Source):
    """CelebA, cropped and resized; it has a validation split and no labels.

    Attributes:
      crop: side of the central square cut from an image, in pixels.
      image_size: side of the result, in pixels.
    """

    crop: int = 148
    image_size: int = 64

    @property
    def directory_name(self) -> str:
        return f"{self.name}_crop{self.crop}_{self.image_size}"

    def builder(self) -> type:
        return _builder()

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Cuts out the central square and resizes it, as torchvision's `CenterCrop` and `Resize`.

        Pillow's bilinear resize is antialiased: its triangle filter widens with the reduction. The
        crop comes first, so no pixel outside the square contributes.
        """
        top, left = ((side - self.crop) // 2 for side in image.shape[:2])
        square = Image.fromarray(image[top : top + self.crop, left : left + self.crop])
        size = (self.image_size, self.image_size)
        return np.asarray(square.resize(size, Image.Resampling.BILINEAR))

    def more_ways(self, tfds_directory: pathlib.Path) -> list[str]:
        return [
            "if Google Drive refuses the download (its quota is often exceeded), download "
            "img_align_celeba.zip, list_eval_partition.txt, list_attr_celeba.txt, "
            "list_landmarks_align_celeba.txt and identity_CelebA.txt by hand from "
            "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into "
            f"{tfds_directory / 'downloads' / 'manual'} and run again"
        ]

    def describe(self) -> str:
        width, height = CELEB_A_IMAGE_SIZE
        return (
            f"{self.name}, centre crop {self.crop} of {width}x{height}, antialiased resize to "
            f"{self.image_size}"
        )


def _builder() -> type:
    """Returns TFDS's CelebA builder, changed to unpack the archive with `zipfile`."""
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
