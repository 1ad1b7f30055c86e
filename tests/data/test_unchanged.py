"""Images that change on disk while they are in use."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest

from tests.conftest import NUM_TRAIN, NUM_VALIDATION, smooth_images
from vae_jax.data import Dataset, ImagesChangedError, UnchangedImages, hash_images, locate


@pytest.fixture
def dataset(data_dir, tmp_path) -> Dataset:
    shutil.copytree(data_dir, tmp_path / "data")
    return Dataset("tiny", str(tmp_path / "data"), NUM_VALIDATION, {})


@pytest.fixture
def path(dataset) -> pathlib.Path:
    return pathlib.Path(dataset.data_dir) / "tiny" / "train_images.npy"


@pytest.fixture
def unchanged(dataset) -> UnchangedImages:
    splits = [dataset.split(name) for name in ("train", "validation")]
    return UnchangedImages(dataset, dataset.hash(), *splits)


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_one_byte_and_keep_the_time(path: pathlib.Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read()
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: pathlib.Path) -> None:
    np.save(path.with_name("new.npy"), smooth_images(NUM_TRAIN + NUM_VALIDATION, seed=9))
    path.with_name("new.npy").rename(path)


def turn_into_text(path: pathlib.Path) -> None:
    path.write_text("x" * path.stat().st_size, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [truncate, pathlib.Path.unlink, overwrite_one_byte_and_keep_the_time, replace, turn_into_text],
)
def test_change_is_noticed_and_the_file_named(unchanged, path, change):
    unchanged.check()
    change(path)
    with pytest.raises(ImagesChangedError, match=f"{path} (changed|became|was)"):
        unchanged.check()


def test_same_images_in_a_new_file_are_fine(unchanged, path):
    shutil.copy(path, path.with_name("copy.npy"))
    path.with_name("copy.npy").rename(path)
    os.utime(path, (1, 1))
    unchanged.check()
    unchanged.check()


@pytest.mark.parametrize("change", [truncate, pathlib.Path.unlink])
def test_missing_bytes_are_an_error_and_do_not_kill_the_process(dataset, path, change):
    np.save(path.with_name("train_labels.npy"), np.zeros(NUM_TRAIN + NUM_VALIDATION, np.uint8))
    split = dataset.split("train")
    for file, read in (
        ("train_images.npy", lambda: split.take(slice(None))),
        ("train_images.npy", lambda: hash_images([split])),
        ("train_labels.npy", lambda: split.take_labels(slice(None))),
    ):
        if path.with_name(file).exists():
            change(path.with_name(file))
        with pytest.raises(ImagesChangedError, match="put (the old file|it) back"):
            read()


# The images of the run


def test_images_with_another_hash_are_refused_or_allowed(dataset, path):
    seen = dataset.hash()
    run = dataclasses.replace(dataset, sha256=seen)
    assert run.difference() == "" and len(run.split("test"))
    images = np.load(path)
    np.save(path, images[::-1])  # the same images in another order
    now = dataset.hash()
    for name in ("train", "validation", "test"):
        with pytest.raises(ValueError) as caught:
            run.split(name)
        assert f"SHA-256 {now[:12]} now, {seen[:12]} in its config.json" in str(caught.value)
        assert "--allow_other_images" in str(caught.value)
    allowed = dataclasses.replace(run, allow_other_images=True)
    np.testing.assert_array_equal(allowed.split("train").images, images[::-1])
    assert "in the same order" in allowed.difference()


# Where a dataset is now


@pytest.mark.parametrize("name", ["tiny", "/old/tiny", "old/tiny"])
@pytest.mark.parametrize("given", ["data", "data/tiny"])
def test_moved_dataset_is_found_by_its_directory_or_the_one_above(dataset, tmp_path, name, given):
    found, data_dir = locate(name, str(tmp_path / given))
    moved = Dataset(found, data_dir or "/nowhere", NUM_VALIDATION, {})
    assert moved.hash() == dataset.hash()


def test_renamed_dataset_is_found_by_its_directory(dataset, tmp_path):
    (tmp_path / "data" / "tiny").rename(tmp_path / "renamed")
    assert locate("tiny", str(tmp_path / "renamed")) == (str(tmp_path / "renamed"), None)


def test_place_without_the_dataset_is_an_error_and_not_ignored(tmp_path):
    with pytest.raises(ValueError, match=f"data_dir = '{tmp_path}': neither {tmp_path}/cats nor"):
        locate("/old/cats", str(tmp_path))
