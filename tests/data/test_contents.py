"""Paths that should be a dataset's directory and are not: what is wrong, and what to do, in a line.

Nothing is removed or changed, and no message says to remove anything.
"""

import os
import pathlib
import shlex

import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.data.test_data import random_images, write_dataset
from vae_jax import data
from vae_jax.data import contents
from vae_jax.errors import InputError


def message_of(name: str, data_dir: pathlib.Path | str) -> str:
    """The message that a dataset is refused with; asserts that no file is touched."""
    with pytest.raises(InputError) as caught:
        data.load_split(name, "train", data_dir)
    message = str(caught.value)
    assert "\n" not in message and "remove" not in message and "delete" not in message.lower()
    return message


def write_pictures(directory: pathlib.Path, num_pictures: int, suffix: str = ".png") -> None:
    directory.mkdir(parents=True)
    for i, pixels in enumerate(random_images(num_pictures, shape=(12, 10, 3))):
        Image.fromarray(pixels).save(directory / f"{i}{suffix}")


def test_recipe_for_a_directory_of_pictures_works(tmp_path):
    photos = tmp_path / 'my "photos"'
    write_pictures(photos / "cats", 7)
    write_pictures(photos / "dogs" / "young", 5, ".JPG")
    (photos / "notes.txt").touch()
    message = message_of(f"{photos}/", tmp_path)
    assert "holds pictures (5 .jpg and 7 .png files)" in message
    command, target = message.partition("python -c ")[2], f"{photos}_arrays"
    assert command.endswith(f"' and give data.name={target}")
    exec(shlex.split(command)[0], {})
    train, test = (data.load_split(target, split, "", 0) for split in ("train", "test"))
    assert (len(train), len(test), train.image_shape) == (11, 1, (64, 64, 3))
    # Every picture is in exactly one array, and the pictures are mixed.
    expected = {
        Image.open(file).convert("RGB").resize((64, 64)).tobytes()
        for file in photos.rglob("*.[pJ]*")
    }
    found = [image.tobytes() for image in [*train.images, *test.images]]
    assert len(expected) == 12 and set(found) == expected
    assert found != sorted(found, key=[*expected].index)


def test_recipe_of_the_documentation_is_that_of_the_message():
    source, target = pathlib.Path("/data/photos"), pathlib.Path("/data/photos_arrays")
    command = contents.recipe(source, target, {".jpg", ".png"})
    assert command in (REPOSITORY / "docs" / "guide" / "data.md").read_text("utf-8")


def test_pictures_are_counted_up_to_a_limit(tmp_path, monkeypatch):
    write_pictures(tmp_path / "photos", 5)
    monkeypatch.setattr(contents, "NUM_COUNTED", 4)
    assert "(at least 4 .png files)" in message_of(f"{tmp_path}/photos", tmp_path)


def test_few_pictures_among_other_files_are_not_a_directory_of_pictures(tmp_path):
    write_pictures(tmp_path / "mine", 1)
    for name in ("a.csv", "b.csv"):
        (tmp_path / "mine" / name).touch()
    message = message_of(f"{tmp_path}/mine", tmp_path)
    assert "lacks train_images.npy and test_images.npy (it holds '0.png', 'a.csv', 'b.c" in message


@pytest.mark.parametrize("name", ["mine", "cifar10"])
def test_missing_array_is_named_with_what_is_there(name, tmp_path):
    write_dataset(tmp_path / name)
    (tmp_path / name / "test_images.npy").unlink()
    message = message_of(name, tmp_path)
    assert f"{name} lacks test_images.npy (it holds 'train_images.npy'" in message
    again = "move the directory away or give another data.dir to have the dataset prepared"
    assert (again in message) == (name == "cifar10")


@pytest.mark.parametrize("file", ["images.npy", "images.zip", "photo.png"])
def test_file_as_name(file, tmp_path, monkeypatch):
    (tmp_path / file).write_bytes(b"content")
    assert f"{file} is a file, must be a directory" in message_of(f"{tmp_path}/{file}", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert f"give data.name=./{file}" in message_of(file, tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["mine", "cifar10"])
def test_file_as_data_dir(name, tmp_path):
    (tmp_path / "file").touch()
    message = message_of(name, tmp_path / "file")
    assert f"{tmp_path}/file is a file. Give another data.name or data.dir" in message


@pytest.mark.parametrize("name", ["mine", "cifar10"])
@pytest.mark.parametrize("refused", ["listdir", "lstat"])
def test_directory_without_permission(refused, name, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write_dataset(tmp_path / name)
    monkeypatch.setattr(os, "lstat", refuse)  # root may read everything
    monkeypatch.setattr(os, refused, refuse)
    message = message_of(name, tmp_path)
    assert f"{tmp_path / name}: cannot be read (Permission denied). Give" in message


def test_data_dir_that_cannot_be_created(tmp_path):
    (tmp_path / "link").symlink_to("nowhere/at/all")
    message = message_of("cifar10", tmp_path / "link")
    assert f"data.dir='{tmp_path}/link': dataset 'cifar10' cannot be prepared there" in message
    assert "File exists. It must be a directory" in message


@pytest.mark.parametrize(
    ("name", "data_dir", "reason"),
    [
        ("a\0b", "/tmp", "data.name='/tmp/a.*null"),
        ("/a\0b", "/tmp", "data.name='/a.*null"),
        ("mine", "/a\0b", "data.dir='/a.*null"),
        ("x" * 300, "/tmp", "data.name='/tmp/xxx.*File name too long"),
        ("/tmp/" + "x/" * 3000, "/tmp", "data.name='/tmp/x/.*File name too long"),
        ("mine", "/" + "x" * 300, "data.dir='/xxx.*File name too long"),
        ("/\ud800", "/tmp", "data.name=.*can't encode"),
        ("~nobody_of_this_name/x", "/tmp", "data.name='~nobody.*home directory"),
        ("mine", "~nobody_of_this_name/x", "data.dir='~nobody.*home directory"),
    ],
)
def test_impossible_path(name, data_dir, reason):
    with pytest.raises(InputError, match=f"^{reason}.*(Give another path|Set HOME)") as caught:
        data.load_split(name, "train", data_dir)
    assert len(str(caught.value)) < 500


def test_unknown_home_directory(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and an account
    with pytest.raises(InputError, match="data.dir='~/.cache/vae_jax'.*home directory"):
        data.load_split("cifar10", "train", data.DEFAULT_DATA_DIR)
