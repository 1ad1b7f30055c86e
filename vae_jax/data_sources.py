"""Preparation of the named datasets: from TensorFlow Datasets (TFDS) or Debian's files to arrays.

TFDS reads and writes `array_record` without TensorFlow, but its builders unpack archives and encode
images with it. The subclasses below do these two things with the standard library and Pillow, so
that a machine without TensorFlow prepares the same data. They also set `url_infos`, the checksums
of the downloads (None: those in TFDS's common list): TFDS 4.9.10 would look for them by means of
`importlib_resources`, which it does not require. All imports of TFDS are inside functions: who has
arrays already needs no TFDS.
"""

import dataclasses
import functools
import gzip
import os
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import tqdm
from PIL import Image

NAMES = ("fashion_mnist", "cifar10", "celeb_a")
CELEB_A_IMAGE_SIZE = (178, 218)  # width, height of the aligned images, in pixels

# Where Debian's package `dataset-fashion-mnist` installs the original IDX files.
DEBIAN_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
_IDX_FILES = {
    split: (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}
_ALL_IDX_FILES = [file for pair in _IDX_FILES.values() for file in pair]
_CHUNK = 512  # images decoded between two updates of the progress bar


def prepare_arrays(
    name: str, directory: pathlib.Path, tfds_directory: pathlib.Path, crop: int, image_size: int
) -> None:
    """Writes `{split}_images.npy` and `{split}_labels.npy` of a named dataset into `directory`.

    The files are written in a temporary directory beside `directory` that is renamed at the end, so
    `directory` either holds all arrays or does not exist, whatever ends the preparation.

    Args:
      name: one of `NAMES`.
      directory: where the arrays go; must not hold anything yet.
      tfds_directory: where TFDS keeps what it downloads, so that another crop needs no download.
      crop: side of the central square cut from a CelebA image, in pixels.
      image_size: side of the CelebA images written, in pixels.

    Raises:
      ValueError: no source could be read; the message names the ways to get the data.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        use_debian = name == "fashion_mnist" and all(
            (DEBIAN_FASHION_MNIST / file).exists() for file in _ALL_IDX_FILES
        )
        if use_debian:  # copied within seconds: not worth keeping on the disk a second time
            tfds_directory = pathlib.Path(scratch) / "tensorflow_datasets"
        source = str(DEBIAN_FASHION_MNIST) if use_debian else "TensorFlow Datasets"
        try:
            sources = _open_data_sources(name, tfds_directory, use_debian)
        except Exception as error:
            reason = f"{source} failed: {type(error).__name__}: {str(error).strip()[:300]}"
            raise ValueError(_instructions(name, directory, tfds_directory, reason)) from error
        transform = np.asarray
        if name == "celeb_a":
            transform = functools.partial(crop_and_resize, crop=crop, image_size=image_size)
        arrays = pathlib.Path(scratch) / "arrays"
        arrays.mkdir()
        for split, examples in sources.items():
            _write_split(examples, arrays, split, transform)
        try:
            arrays.rename(directory)
        except OSError:  # another process was faster: its arrays are the same
            if not (directory / "train_images.npy").exists():
                raise


def crop_and_resize(image: np.ndarray, crop: int, image_size: int) -> np.ndarray:
    """Cuts the central square and resizes it, as torchvision's `CenterCrop` and `Resize` do.

    The resize is Pillow's bilinear one, which is antialiased: its triangle widens with the
    reduction. The crop comes first, so no pixel outside the square contributes.

    Maps uint8 `[H, W, 3]` to `[image_size, image_size, 3]`; `crop` (pixels) is at most H and W.
    """
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    square = Image.fromarray(image[top : top + crop, left : left + crop])
    return np.asarray(square.resize((image_size, image_size), Image.Resampling.BILINEAR))


def _write_split(examples, directory: pathlib.Path, split: str, transform: Callable) -> None:
    """Decodes one split of a TFDS data source into memory-mapped files, a chunk at a time."""
    first = examples[0]
    create = functools.partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    image_shape = transform(first["image"]).shape
    images = create(directory / f"{split}_images.npy", shape=(len(examples), *image_shape))
    labels = None
    if "label" in first:
        labels = create(directory / f"{split}_labels.npy", shape=(len(examples),))
    with tqdm.tqdm(
        total=len(examples), desc=f"decoding {split}", unit=" images", disable=None
    ) as progress:
        for start in range(0, len(examples), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(examples)))
            for row, example in zip(rows, examples.__getitems__(rows), strict=True):
                images[row] = transform(example["image"])
                if labels is not None:
                    labels[row] = example["label"]
            progress.update(len(rows))


def _open_data_sources(name: str, tfds_directory: pathlib.Path, use_debian: bool) -> dict:
    """Prepares a dataset with TFDS; returns {split: sequence of examples}."""
    if name == "fashion_mnist":
        builder_class = _fashion_mnist_builder(DEBIAN_FASHION_MNIST if use_debian else None)
    else:
        builder_class = {"cifar10": _cifar10_builder, "celeb_a": _celeb_a_builder}[name]()
    builder = builder_class(data_dir=tfds_directory)
    builder.download_and_prepare(file_format="array_record")
    return builder.as_data_source()


def _fashion_mnist_builder(local_directory: pathlib.Path | None) -> type:
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
                    urls = {file: self.URL + file for file in _ALL_IDX_FILES}
                    paths = dl_manager.download(urls)
                else:
                    paths = {file: local_directory / file for file in _ALL_IDX_FILES}
                return {
                    split: self._generate_examples(paths[images], paths[labels])
                    for split, (images, labels) in _IDX_FILES.items()
                }

            def _generate_examples(self, images_path, labels_path):
                pairs = zip(_read_idx(images_path), _read_idx(labels_path), strict=True)
                for index, (image, label) in enumerate(pairs):
                    yield index, {"image": Image.fromarray(image), "label": label}

    return LocalFashionMNIST


def _cifar10_builder() -> type:
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


def _celeb_a_builder() -> type:
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


def _read_idx(path: os.PathLike) -> np.ndarray:
    """Reads a gzipped IDX file of bytes (LeCun, http://yann.lecun.com/exdb/mnist)."""
    with gzip.open(path) as file:
        data = file.read()
    num_dimensions = data[3]
    shape = np.frombuffer(data, ">u4", count=num_dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


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


def _instructions(
    name: str, directory: pathlib.Path, tfds_directory: pathlib.Path, reason: str
) -> str:
    """The ways to get a dataset that could not be prepared, in one message."""
    ways = [
        f"place train_images.npy and test_images.npy (uint8 [N, H, W, C], 0 to 255) in {directory}"
    ]
    if name == "fashion_mnist":
        ways.append("apt-get install dataset-fashion-mnist (Debian, Ubuntu)")
    ways.append(
        f"run `python -m vae_jax.data {name}` on a machine with a network, where TensorFlow "
        f"Datasets downloads it, and copy the directory it prints to {directory}"
    )
    if name == "celeb_a":
        manual = tfds_directory / "downloads" / "manual"
        ways.append(
            "where Google Drive refuses the download (its quota is often exceeded), fetch "
            "img_align_celeba.zip, list_eval_partition.txt, list_attr_celeba.txt, "
            "list_landmarks_align_celeba.txt and identity_CelebA.txt by hand from "
            f"http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into {manual} and run again"
        )
    numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, start=1))
    return f"dataset {name!r}: no arrays in {directory}, and {reason}. Ways to get it: {numbered}."
