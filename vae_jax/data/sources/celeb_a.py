"""CelebA, from TensorFlow Datasets: cropped and resized."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

CELEB_A_IMAGE_SIZE = (178, 218)  # width, height of the aligned images, in pixels


def crop_and_resize(image: np.ndarray, crop: int, image_size: int) -> np.ndarray:
    """Cuts the central square and resizes it, as torchvision's `CenterCrop` and `Resize` do.

    The resize is Pillow's bilinear one, which is antialiased: its triangle widens with the
    reduction. The crop comes first, so no pixel outside the square contributes.

    Maps uint8 `[H, W, 3]` to `[image_size, image_size, 3]`; `crop` (pixels) is at most H and W.
    """
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    square = Image.fromarray(image[top : top + crop, left : left + crop])
    return np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))


def builder() -> type:
    """TFDS's CelebA, unpacked by `zipfile`; it has a validation split and no labels."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    celeb_a = tfds.builder_cls("celeb_a")
    with tfds.core.registered.skip_registration():

        class TensorFlowFreeCelebA(celeb_a):
            name = "celeb_a"
            url_infos = checksums.load_url_infos(celeb_a.pkg_dir_path / "checksums.tsv")
            pkg_dir_path = celeb_a.pkg_dir_path

            def _split_generators(self, dl_manager):
                dl_manager.iter_archive = _iter_zip
                return super()._split_generators(dl_manager)

    return TensorFlowFreeCelebA


@dataclasses.dataclass(frozen=True)
class _ZipMember:
    """A file in an archive, read when asked for: an open handle each would take gigabytes."""

    archive: zipfile.ZipFile
    name: str

    def read(self) -> bytes:
        return self.archive.read(self.name)


def _iter_zip(path: os.PathLike) -> Iterator[tuple[str, _ZipMember]]:
    archive = zipfile.ZipFile(path)
    for name in archive.namelist():
        yield name, _ZipMember(archive, name)
