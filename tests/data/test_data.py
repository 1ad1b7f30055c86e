"""Tests of vae_jax/data/."""

import concurrent.futures
import errno
import gzip
import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests import processes
from vae_jax import data
from vae_jax.data import sources
from vae_jax.data.sources import fashion_mnist, preparation
from vae_jax.errors import InputError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def run_python(code: str, *arguments, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return processes.finish(processes.start(command, cwd=REPOSITORY, **pipes, **kwargs))


def random_images(num_images: int, seed: int = 0, shape=(8, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_images, *shape), dtype=np.uint8)


def write_dataset(directory: pathlib.Path, **arrays) -> dict[str, np.ndarray]:
    """Saves a small valid dataset; keyword arguments replace or add arrays."""
    arrays = {
        "train_images": random_images(20),
        "train_labels": np.arange(20, dtype=np.uint8),
        "test_images": random_images(5, seed=1),
    } | arrays
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)
    return arrays


@pytest.fixture
def no_tfds(monkeypatch):
    """Any import of TFDS fails."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


# Splits


def test_split_gives_the_images_and_labels_of_its_rows(tmp_path, no_tfds):
    arrays = write_dataset(tmp_path / "mine")
    split = data.load_split("mine", "train", tmp_path, validation_size=4)
    assert (split.name, len(split), split.image_shape) == ("train", 16, (8, 6, 3))
    assert isinstance(split.images, np.memmap)
    batch = split.take(np.array([3, 0, 15, 3]))
    rows = split.indices[[3, 0, 15, 3]]
    assert batch.dtype == np.uint8 and not isinstance(batch, np.memmap)
    np.testing.assert_array_equal(batch, arrays["train_images"][rows])
    np.testing.assert_array_equal(split.labels[rows], arrays["train_labels"][rows])


def test_validation_and_train_are_disjoint_and_together_all_of_train(tmp_path):
    write_dataset(tmp_path / "mine")
    train = data.load_split("mine", "train", tmp_path, validation_size=7).indices
    validation = data.load_split("mine", "validation", tmp_path, validation_size=7).indices
    assert (len(train), len(validation)) == (13, 7)
    assert train.dtype == validation.dtype == np.int64
    assert sorted([*train, *validation]) == list(range(20))


def test_validation_split_has_every_class_of_a_sorted_directory(tmp_path):
    labels = np.repeat(np.arange(4, dtype=np.uint8), 250)
    write_dataset(tmp_path / "mine", train_images=random_images(1000), train_labels=labels)
    split = data.load_split("mine", "validation", tmp_path, validation_size=200)
    # 200 of 1000 drawn without replacement: hypergeometric, 50 a class with a deviation of 5.5.
    counts = np.bincount(split.labels[split.indices], minlength=4)
    assert np.all(np.abs(counts - 50) < 5 * 5.5)


def test_validation_file_is_used_instead_of_a_part_of_train(tmp_path):
    own = random_images(3, seed=2)
    write_dataset(tmp_path / "mine", validation_images=own)
    # A size above the number of training images has no effect if the file exists.
    validation = data.load_split("mine", "validation", tmp_path, validation_size=5000)
    np.testing.assert_array_equal(validation.take(np.arange(3)), own)
    assert validation.labels is None
    assert len(data.load_split("mine", "train", tmp_path, validation_size=5000)) == 20


def test_test_file_is_opened_for_the_test_split_only(tmp_path):
    write_dataset(tmp_path / "mine")
    (tmp_path / "mine" / "test_images.npy").write_bytes(b"not an array")
    for split in ("train", "validation"):
        data.load_split("mine", split, tmp_path, validation_size=4)
    with pytest.raises(ValueError, match="test_images.npy"):
        data.load_split("mine", "test", tmp_path)


def test_test_split_is_whole_whatever_the_validation_size(tmp_path):
    arrays = write_dataset(tmp_path / "mine")
    split = data.load_split("mine", "test", tmp_path, validation_size=4)
    np.testing.assert_array_equal(split.take(np.arange(len(split))), arrays["test_images"])


@pytest.mark.parametrize("where", ["named", "below_data_dir", "path", "celeb_a"])
def test_directory_of_arrays_is_used_as_it_is(tmp_path, no_tfds, where):
    name, directory = {
        "named": ("fashion_mnist", tmp_path / "fashion_mnist"),
        "below_data_dir": ("celeb_a_10k_crop148_64", tmp_path / "celeb_a_10k_crop148_64"),
        "path": (f"{tmp_path}/elsewhere/mine", tmp_path / "elsewhere" / "mine"),
        "celeb_a": ("celeb_a", tmp_path / "celeb_a_crop140_32"),
    }[where]
    arrays = write_dataset(directory)
    files = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    split = data.load_split(name, "train", tmp_path, validation_size=0, crop=140, image_size=32)
    np.testing.assert_array_equal(split.take(np.arange(20)), arrays["train_images"])
    assert files == {path: path.stat().st_mtime_ns for path in directory.iterdir()}


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.dataset_directory("mine", "~/arrays") == tmp_path / "arrays" / "mine"
    assert data.dataset_directory("~/mine", "/unused") == tmp_path / "mine"
    default = tmp_path / ".cache" / "vae_jax" / "celeb_a_crop148_64"
    assert data.dataset_directory("celeb_a") == default


def test_import_needs_neither_tensorflow_nor_tfds():
    code = "import sys, vae_jax.data; print({'tensorflow', 'tensorflow_datasets'} & {*sys.modules})"
    assert run_python(code).stdout == "set()\n"


# Errors a user can cause


@pytest.mark.parametrize(
    ("arrays", "split", "message"),
    [
        (
            {"train_images": np.zeros((20, 8, 6, 3), np.float32)},
            "train",
            r"train_images.npy: dtype float32, must be uint8.*images \* 255",
        ),
        (
            {"train_images": np.zeros((20, 8, 6), np.uint8)},
            "train",
            r"train_images.npy: shape \(20, 8, 6\), must be \[N, H, W, C\].*newaxis",
        ),
        (
            {"train_images": np.zeros((20, 3, 8, 6), np.uint8)},
            "train",
            r"shape \(20, 3, 8, 6\), must be \[N, H, W, C\] with C 1 or 3.*moveaxis",
        ),
        (
            {"train_images": np.zeros((20, 0, 6, 3), np.uint8)},
            "train",
            r"shape \(20, 0, 6, 3\), must be \[N, H, W, C\]",
        ),
        (
            {"train_images": np.ones((200, 8, 6, 3), np.uint8)},
            "train",
            r"largest value in a sample of 64 images is 1, must be.*0 to 255.*multiply by 255",
        ),
        (
            {"train_images": np.zeros((0, 8, 6, 3), np.uint8)},
            "train",
            r"train_images.npy: shape \(0, 8, 6, 3\), must hold at least one image",
        ),
        (
            {"train_images": np.array([None] * 20)},
            "train",
            r"train_images.npy: dtype object, must be uint8.*several sizes: resize",
        ),
        (
            {"test_images": random_images(5, shape=(8, 8, 3))},
            "test",
            r"test_images.npy: images of shape \(8, 8, 3\), must be \(8, 6, 3\)",
        ),
        (
            {"validation_images": random_images(5, shape=(8, 6, 1))},
            "validation",
            r"validation_images.npy: images of shape \(8, 6, 1\), must be \(8, 6, 3\)",
        ),
        (
            {"train_labels": np.zeros(19, np.uint8)},
            "train",
            r"train_labels.npy: uint8 of shape \(19,\), must be uint8 of shape \(20,\)",
        ),
        (
            {"train_labels": np.zeros(20, np.int64)},
            "train",
            r"train_labels.npy: int64 of shape \(20,\), must be uint8.*astype\(np.uint8\)",
        ),
    ],
)
def test_array_that_breaks_a_rule_is_refused(tmp_path, arrays, split, message):
    write_dataset(tmp_path / "mine", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load_split("mine", split, tmp_path, validation_size=4)


def test_range_check_accepts_an_image_that_is_black(tmp_path):
    images = random_images(20)
    images[0] = 0
    write_dataset(tmp_path / "mine", train_images=images)
    assert len(data.load_split("mine", "train", tmp_path, validation_size=4)) == 16


@pytest.mark.parametrize("num_bytes", [0, 50, 1000])
def test_truncated_file_is_refused(tmp_path, num_bytes):
    write_dataset(tmp_path / "mine")
    path = tmp_path / "mine" / "train_images.npy"
    path.write_bytes(path.read_bytes()[:num_bytes])  # the whole file has 128 + 20 * 8 * 6 * 3 bytes
    with pytest.raises(ValueError, match="train_images.npy: not a complete .npy file"):
        data.load_split("mine", "train", tmp_path, validation_size=4)


@pytest.mark.parametrize(
    ("split", "validation_size"),
    [("train", 20), ("validation", 20), ("train", -1), ("train", 4.0)],
)
def test_validation_size_out_of_range_is_refused(tmp_path, split, validation_size):
    write_dataset(tmp_path / "mine")
    match = f"data.validation_size = {validation_size}: must .* less than the 20 images.*Change"
    with pytest.raises(ValueError, match=match):
        data.load_split("mine", split, tmp_path, validation_size=validation_size)


def test_validation_split_of_size_zero_is_refused_but_the_train_split_is_whole(tmp_path):
    write_dataset(tmp_path / "mine")
    assert len(data.load_split("mine", "train", tmp_path, validation_size=0)) == 20
    with pytest.raises(ValueError, match="validation_size = 0: must be at least 1 to load the val"):
        data.load_split("mine", "validation", tmp_path, validation_size=0)


def test_largest_validation_size_leaves_one_training_image(tmp_path):
    write_dataset(tmp_path / "mine")
    assert len(data.load_split("mine", "train", tmp_path, validation_size=19)) == 1


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    write_dataset(tmp_path / "mine")
    match = (
        f"'cifar': not one of fashion_mnist, cifar10, celeb_a, and {tmp_path}/cifar .*: mine.*Place"
    )
    with pytest.raises(ValueError, match=match):
        data.load_split("cifar", "train", tmp_path)
    with pytest.raises(ValueError, match="celeb_a_10k_crop148_64.*Place.*subset of CelebA"):
        data.load_split("celeb_a_10k_crop148_64", "train", tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/nothing/here holds no arrays"):
        data.load_split(f"{tmp_path}/nothing/here", "train", tmp_path)
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match="must be a name or a path"):
            data.load_split(name, "train", tmp_path)
    with pytest.raises(ValueError, match="split='valid': must be one of train, validation, test"):
        data.load_split("mine", "valid", tmp_path)


def test_incomplete_directory_is_refused_and_left_alone(tmp_path, no_tfds):
    write_dataset(tmp_path / "cifar10")
    (tmp_path / "cifar10" / "test_images.npy").unlink()
    with pytest.raises(ValueError, match="cifar10 lacks test_images.npy.*Add"):
        data.load_split("cifar10", "train", tmp_path)
    assert (tmp_path / "cifar10" / "train_images.npy").exists()


@pytest.mark.parametrize(("crop", "image_size"), [(179, 64), (0, 64), (148, 0), (148.0, 64)])
def test_impossible_crop_or_size_is_refused(tmp_path, crop, image_size):
    with pytest.raises(ValueError, match="must be an integer from 1"):
        data.prepare("celeb_a", tmp_path, crop=crop, image_size=image_size)


@pytest.mark.parametrize("name", sources.names())
def test_one_chained_error_names_the_ways_to_get_the_data(tmp_path, monkeypatch, no_tfds, name):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIRECTORY", tmp_path / "absent")
    with pytest.raises(ValueError, match="Ways to get it") as caught:
        data.load_split(name, "train", tmp_path)
    assert isinstance(caught.value.__cause__, ImportError)
    message = str(caught.value)
    assert f"in {data.dataset_directory(name, tmp_path)}" in message
    assert "train_images.npy" in message and f"python -m vae_jax.data {name}" in message
    assert ("apt-get install dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    manual = str(tmp_path / "tensorflow_datasets" / "downloads" / "manual")
    assert (manual in message and "img_align_celeba.zip" in message) == (name == "celeb_a")
    assert "vae_jax[datasets]" in message


def test_installed_tfds_is_not_recommended(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no network")

    monkeypatch.setattr(preparation, "open_data_sources", fail)
    with pytest.raises(ValueError, match="Ways to get it") as caught:
        data.prepare("cifar10", tmp_path)
    assert "vae_jax[datasets]" not in str(caught.value)


# Batches


@pytest.mark.parametrize(
    ("num_images", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 13), (1, 3), (9, 1)]
)
def test_stream_is_the_concatenation_of_permutations(num_images, batch_size):
    batch_indices = data.make_batch_indices(num_images, batch_size, seed=3)
    num_epochs = 4 * batch_size  # so that the last step ends with an epoch
    batches = [batch_indices(step) for step in range(4 * num_images)]
    assert {batch.shape for batch in batches} == {(batch_size,)}
    assert {batch.dtype for batch in batches} == {np.dtype(np.int32)}
    epochs = np.concatenate(batches).reshape(num_epochs, num_images)
    np.testing.assert_array_equal(
        np.sort(epochs, axis=1), np.tile(np.arange(num_images), (num_epochs, 1))
    )
    assert num_images == 1 or len({tuple(epoch) for epoch in epochs}) > 1


def test_batch_depends_on_seed_and_step_alone():
    expected = [data.make_batch_indices(10, 4, seed=0)(step) for step in range(20)]
    batch_indices = data.make_batch_indices(10, 4, seed=0)
    for step in (19, 0, 7, 7, 2, 3, 2, 18):
        np.testing.assert_array_equal(batch_indices(step), expected[step])
    other = data.make_batch_indices(1000, 100, seed=1)(0)
    assert not np.array_equal(other, data.make_batch_indices(1000, 100, seed=0)(0))


def test_caller_may_change_a_batch():
    batch_indices = data.make_batch_indices(8, 8, seed=0)
    batch_indices(0)[:] = 0
    assert sorted(batch_indices(0)) == list(range(8))


def test_steps_beyond_int32_positions():
    # The position 2**30 * 8 overflows int32, which a step from an accelerator may be.
    batch_indices = data.make_batch_indices(8, 8, seed=0)
    np.testing.assert_array_equal(batch_indices(np.int32(2**30)), batch_indices(2**30))
    assert sorted(batch_indices(np.int32(2**30))) == list(range(8))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 1, 0), "num_images=0: must be an integer, at least 1"),
        ((5, 0, 0), "batch_size=0"),
        ((5, 2.0, 0), "batch_size=2.0"),
        ((5, 2, -1), "seed=-1: must be an integer, at least 0"),
    ],
)
def test_batch_arguments_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        data.make_batch_indices(*arguments)


def test_negative_step_is_refused():
    with pytest.raises(ValueError, match="step=-1"):
        data.make_batch_indices(5, 2, 0)(-1)


# Preparation


def parse_idx(path: pathlib.Path, header: int, *shape: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8).reshape(-1, *shape)


def labelled_hashes(images: np.ndarray, labels: np.ndarray) -> list:
    hashes = [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images]
    return sorted(zip(hashes, labels.tolist(), strict=True))


@pytest.mark.long
@pytest.mark.skipif(
    not fashion_mnist.DEBIAN_DIRECTORY.exists(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_debian_fashion_mnist_without_tensorflow(tmp_path):
    code = "import tests.without_tensorflow.sitecustomize"
    code += "; from vae_jax.data.__main__ import main; main()"
    completed = run_python(code, "fashion_mnist", f"--data_dir={tmp_path}")
    assert completed.returncode == 0, completed.stderr
    assert "train: (60000, 28, 28, 1), labels" in completed.stdout
    # The files that TFDS wrote on the way are gone.
    assert sorted(os.listdir(tmp_path)) == [".fashion_mnist.lock", "fashion_mnist"]
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = fashion_mnist.DEBIAN_DIRECTORY
        images = parse_idx(source / f"{prefix}-images-idx3-ubyte.gz", 16, 28, 28, 1)
        labels = parse_idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
        prepared = data.load_split("fashion_mnist", split, tmp_path, validation_size=0)
        assert prepared.images.shape == images.shape
        assert labelled_hashes(prepared.images, prepared.labels) == labelled_hashes(images, labels)


def write_fashion_mnist(directory: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes IDX files like Fashion-MNIST's, with few images."""
    splits = {}
    for split, prefix, num_images in (("train", "train", 6), ("test", "t10k", 3)):
        images = random_images(num_images, seed=num_images, shape=(28, 28))
        labels = np.arange(num_images, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()
            (directory / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
        splits[split] = (images[..., np.newaxis], labels)
    return splits


def write_cifar10(directory: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Writes an archive like CIFAR-10's binary version, with few images."""
    images, labels = random_images(12, shape=(32, 32, 3)), np.arange(12, dtype=np.uint8) % 10
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(directory / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, rows in zip(names, np.arange(12).reshape(6, 2), strict=True):
            content = b""
            for row in rows:  # a label, then all of red, of green and of blue
                planes = b"".join(images[row, :, :, colour].tobytes() for colour in range(3))
                content += bytes([labels[row]]) + planes
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"train": (images[:10], labels[:10]), "test": (images[10:], labels[10:])}


def write_celeb_a(directory: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Writes files like CelebA's: 6 JPEG images of 218 x 178; returns the decoded images."""
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    partition = {"train": names[:3], "validation": names[3:5], "test": names[5:]}
    decoded = {}
    with zipfile.ZipFile(directory / "img_align_celeba.zip", "w") as archive:
        for seed, name in enumerate(names):
            coarse = Image.fromarray(random_images(1, seed, (11, 9, 3))[0])
            buffer = io.BytesIO()
            coarse.resize((178, 218), Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=95)
            archive.writestr(f"img_align_celeba/{name}", buffer.getvalue())
            decoded[name] = np.asarray(Image.open(buffer))
    lists = {
        "list_eval_partition.txt": [
            f"{name} {number}" for number, part in enumerate(partition.values()) for name in part
        ],
        "identity_CelebA.txt": [f"{name} 1" for name in names],
    }
    for file, count in (("list_attr_celeba.txt", 40), ("list_landmarks_align_celeba.txt", 10)):
        # TFDS keys the values by the headings in the file, and needs those of the real file.
        module = sys.modules["tensorflow_datasets.datasets.celeb_a.celeb_a_dataset_builder"]
        headings = module.ATTR_HEADINGS if count == 40 else module.LANDMARK_HEADINGS
        lists[file] = [str(len(names)), " ".join(headings)]
        lists[file] += [f"{name} " + " ".join(["1"] * count) for name in names]
    for file, lines in lists.items():
        (directory / file).write_text("\n".join(lines) + "\n")
    return {split: [decoded[name] for name in part] for split, part in partition.items()}


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A directory from which TFDS 'downloads'; no files of Debian's."""
    import tensorflow_datasets as tfds

    directory = tmp_path / "downloads"
    directory.mkdir()

    def download(self, urls):
        if isinstance(urls, dict):
            return {key: download(self, url) for key, url in urls.items()}
        url_info = self._url_infos[urls]  # a KeyError: TFDS could not check this download
        return directory / url_info.filename

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIRECTORY", tmp_path / "absent")
    return directory


@pytest.mark.parametrize(
    ("name", "write"), [("fashion_mnist", write_fashion_mnist), ("cifar10", write_cifar10)]
)
def test_downloaded_labelled_dataset(tmp_path, downloads, name, write):
    for split, (images, labels) in write(downloads).items():
        prepared = data.load_split(name, split, tmp_path, validation_size=0)
        assert prepared.images.shape == images.shape
        assert labelled_hashes(prepared.images, prepared.labels) == labelled_hashes(images, labels)
    assert (tmp_path / "tensorflow_datasets" / name).is_dir()  # another run needs no download


def triangle_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resize of a square image, as a product of matrices, in float64."""
    scale = len(image) / size
    centres = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(len(image)) + 0.5 - centres[:, np.newaxis]) / scale
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("yh,xw,hwc->yxc", weights, weights, image.astype(np.float64))


@pytest.mark.parametrize(("crop", "image_size"), [(148, 64), (140, 32)])
def test_celeb_a_is_cropped_and_resized(tmp_path, downloads, crop, image_size):
    import tensorflow_datasets as tfds

    tfds.builder_cls("celeb_a")
    sources = write_celeb_a(downloads)
    top, left = {148: (35, 15), 140: (39, 19)}[crop]  # (218 - crop) / 2, (178 - crop) / 2
    for split, images in sources.items():
        prepared = data.load_split("celeb_a", split, tmp_path, crop=crop, image_size=image_size)
        assert prepared.labels is None and len(prepared) == len(images)
        squares = [image[top : top + crop, left : left + crop] for image in images]
        expected = np.stack([triangle_resize(square, image_size) for square in squares])
        # TFDS shuffles: each expected image must be near exactly one of those prepared.
        actual = prepared.take(np.arange(len(prepared))).astype(np.float64)
        error = np.abs(expected[:, np.newaxis] - actual).max(axis=(2, 3, 4))
        assert np.array_equal((error < 2).sum(axis=0), np.ones(len(images)))  # rounded twice
        assert np.array_equal((error < 2).sum(axis=1), np.ones(len(images)))
    assert data.dataset_directory("celeb_a", tmp_path, crop=crop, image_size=image_size).is_dir()


@pytest.mark.parametrize(("crop", "image_size"), [(148, 64), (128, 32)])
def test_mocked_celeb_a_is_what_pillow_crops_and_resizes(tmp_path, crop, image_size):
    """TFDS's own mock, at the dataset's shapes; nothing is downloaded or decoded."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.testing.mocking import RandomFakeGenerator

    class Examples(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    sizes = {"train": 4, "validation": 2, "test": 3}
    sources = {}

    def as_data_source(builder, *_, **__):
        for seed, (split, num_examples) in enumerate(sizes.items()):
            fake = RandomFakeGenerator(builder.info.features, num_examples, seed=seed)
            sources[split] = Examples(fake)
        return sources

    with tfds.testing.mock_data(as_data_source_fn=as_data_source):
        data.prepare("celeb_a", tmp_path, crop=crop, image_size=image_size)
    left, top = (178 - crop) // 2, (218 - crop) // 2
    for split, examples in sources.items():
        prepared = data.load_split("celeb_a", split, tmp_path, crop=crop, image_size=image_size)
        assert prepared.images.shape == (sizes[split], image_size, image_size, 3)
        for example, image in zip(examples, prepared.images, strict=True):
            assert example["image"].shape == (218, 178, 3)
            cropped = Image.fromarray(example["image"]).crop((left, top, left + crop, top + crop))
            resized = cropped.resize((image_size, image_size), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image, np.asarray(resized))


QUOTA_PAGE = (
    "<html><head><title>Google Drive - Quota exceeded</title></head><body><p>Sorry, you can't view "
    "or download this file at this time. Too many users have viewed or downloaded this file "
    "recently.</p></body></html>"
)


def test_celeb_a_beyond_the_download_quota_is_prepared_from_files_placed_by_hand(
    tmp_path, monkeypatch
):
    """TFDS's own downloader gets the page of tensorflow/datasets#1482 in place of an archive."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    celeb_a = tfds.builder_cls("celeb_a")
    asked = []

    def get(self, url, **kwargs):
        asked.append(url)
        response = requests.Response()
        response.status_code, response.url, response._content = 200, url, QUOTA_PAGE.encode()
        return response

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(ValueError, match="Failed to obtain confirmation link") as caught:
        data.prepare("celeb_a", tmp_path, crop=148, image_size=64)
    assert asked and all("drive.google.com" in url for url in asked)
    manual = tmp_path / "tensorflow_datasets" / "downloads" / "manual"
    message = str(caught.value)
    assert f"into {manual} and run again" in message
    url_infos = checksums.load_url_infos(celeb_a.pkg_dir_path / "checksums.tsv")
    assert all(info.filename in message for info in url_infos.values())
    assert not data.dataset_directory("celeb_a", tmp_path, crop=148, image_size=64).exists()

    # Follows the message, with small files and their checksums in place of the real ones.
    manual.mkdir(parents=True)
    sources = write_celeb_a(manual)
    asked.clear()
    monkeypatch.setattr(
        checksums,
        "load_url_infos",
        lambda path: {
            url: checksums.compute_url_info(manual / info.filename)
            for url, info in url_infos.items()
        },
    )
    for split, images in sources.items():
        prepared = data.load_split("celeb_a", split, tmp_path)
        assert prepared.images.shape == (len(images), 64, 64, 3)
    assert not asked


def test_second_crop_of_celeb_a_needs_no_download(tmp_path, downloads):
    import tensorflow_datasets as tfds

    tfds.builder_cls("celeb_a")
    write_celeb_a(downloads)
    data.prepare("celeb_a", tmp_path, crop=148, image_size=64)
    for path in downloads.iterdir():
        path.unlink()
    directory = data.prepare("celeb_a", tmp_path, crop=140, image_size=64)
    assert np.load(directory / "train_images.npy").shape == (3, 64, 64, 3)


def test_two_preparations_at_once_agree(tmp_path, downloads):
    write_cifar10(downloads)
    directory = data.prepare("cifar10", tmp_path)
    before = (directory / "train_images.npy").stat().st_ino
    source = sources.create_source("cifar10")
    preparation.prepare_arrays(source, directory, tmp_path / "tensorflow_datasets")
    assert (directory / "train_images.npy").stat().st_ino == before
    names = [".cifar10.lock", "cifar10", "downloads", "tensorflow_datasets"]
    assert sorted(os.listdir(tmp_path)) == names


def test_failure_while_decoding_leaves_no_arrays(tmp_path, downloads, monkeypatch):
    write_cifar10(downloads)
    monkeypatch.setattr(preparation, "CHUNK_SIZE", 1)

    class Interrupted(preparation.tqdm.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    monkeypatch.setattr(preparation.tqdm, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare("cifar10", tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".cifar10.lock", "downloads", "tensorflow_datasets"]


class Examples(list):
    """A split of a data source, in memory."""

    def __getitems__(self, rows):
        return [self[row] for row in rows]


def few_examples() -> dict[str, Examples]:
    example = {"image": np.full((8, 8, 3), 9, np.uint8)}
    return {"train": Examples([example] * 4), "test": Examples([example] * 2)}


def test_second_preparation_waits_for_the_first_and_takes_its_arrays(tmp_path, monkeypatch, caplog):
    is_open, go_on = threading.Event(), threading.Event()

    def open_data_sources(*_):
        assert not is_open.is_set(), "the second one opens the data as well"
        is_open.set()
        go_on.wait(10)
        return few_examples()

    monkeypatch.setattr(preparation, "open_data_sources", open_data_sources)
    caplog.set_level("INFO")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(data.prepare, "cifar10", tmp_path)
        assert is_open.wait(10)
        second = pool.submit(data.prepare, "cifar10", tmp_path)
        while "waiting for it" not in caplog.text:
            assert not second.done(), second.result()
        go_on.set()
        assert first.result(10) == second.result(10) == tmp_path / "cifar10"
    assert len(data.load_split("cifar10", "test", tmp_path)) == 2


def test_arrays_without_room_on_disk_are_refused_before_they_are_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(preparation, "open_data_sources", lambda *_: few_examples())
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(InputError, match="data.dir=.*No space left on device. Make room"):
        data.prepare("cifar10", tmp_path)
    assert os.listdir(tmp_path) == [".cifar10.lock"]


def test_killed_preparation_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    # SIGKILL after the training images are whole and before the test images are.
    code = """
import os, signal, sys, pathlib
import numpy as np
from vae_jax import data
from vae_jax.data.sources import preparation
example = {"image": np.full((8, 8, 3), 9, np.uint8)}
class Examples(list):
    def __getitems__(self, rows):
        return [self[row] for row in rows]
class Killing(Examples):
    def __getitems__(self, rows):
        os.kill(os.getpid(), signal.SIGKILL)
sources = {"train": Examples([example] * 4), "test": Killing([example] * 4)}
preparation.open_data_sources = lambda *args: sources
data.prepare("cifar10", sys.argv[1])
"""
    completed = run_python(code, tmp_path)
    assert completed.returncode == -signal.SIGKILL, completed.stderr
    assert list(
        tmp_path.glob(".cifar10-*/arrays/train_images.npy")
    )  # the kill came after this file
    assert not (tmp_path / "cifar10").exists()
    monkeypatch.setattr(preparation, "open_data_sources", lambda *_: few_examples())
    data.prepare("cifar10", tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".cifar10.lock", "cifar10"]


def test_command_line_ends_with_the_message_not_a_traceback(tmp_path):
    write_dataset(tmp_path / "mine", train_images=np.zeros((20, 8, 6), np.uint8))
    command = "from vae_jax.data.__main__ import main; main()"
    completed = run_python(command, "mine", f"--data_dir={tmp_path}")
    assert completed.returncode == 1
    assert completed.stderr.startswith("error: ") and "must be [N, H, W, C]" in completed.stderr
    assert "Traceback" not in completed.stderr
