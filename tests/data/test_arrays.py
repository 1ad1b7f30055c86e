"""Array files that np.save did not write, or that are not files: one line, no crash, no wait."""

import io
import os
import pathlib
import pickle
import socket
import struct

import numpy as np
import pytest

from tests.data.test_data import random_images, write_dataset
from vae_jax import data
from vae_jax.data.arrays import open_images, open_labels
from vae_jax.errors import InputError

INCOMPLETE = "not a complete .npy file of numbers"


def npy(
    shape: object,
    descr: object = "|u1",
    is_fortran: object = False,
    version: tuple[int, int] = (1, 0),
    content: bytes = b"",
) -> bytes:
    """A .npy file with the given fields in its header, whether they fit its content or not."""
    fields = f"{{'descr': {descr!r}, 'fortran_order': {is_fortran!r}, 'shape': {shape}, }}"
    return raw_npy(fields.encode(), version) + content


def raw_npy(header: bytes, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file without numbers; `length` is what it says of the length of its header."""
    kind = "<H" if version == (1, 0) else "<I"
    length = len(header) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack(kind, length) + header


def npz(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


IMAGES = random_images(3, shape=(4, 5, 1))
CONTENT = IMAGES.tobytes()

BAD_FILES = {
    "empty": (b"", INCOMPLETE),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", INCOMPLETE),
    "npz": (npz(IMAGES), "magic string.*PK"),
    "pickle": (pickle.dumps(IMAGES), INCOMPLETE),
    "ends in the magic": (b"\x93NUM", INCOMPLETE),
    "ends in the header": (npy(IMAGES.shape)[:40], INCOMPLETE),
    "unknown version": (npy(IMAGES.shape, version=(9, 0), content=CONTENT[:-1]), INCOMPLETE),
    "header of 4 GB": (raw_npy(b"{", (2, 0), length=2**32 - 1), "expected 4294967295 bytes"),
    "header not closed": (raw_npy(b"{'descr': '|u1', ((((("), INCOMPLETE),
    "header nested deeply": (raw_npy(b"-" * 4000 + b"1"), INCOMPLETE),
    "header with unhashable key": (raw_npy(b"{[]: 1}"), INCOMPLETE),
    "header with keys of two types": (raw_npy(b"{1: 1, 'a': 1}"), INCOMPLETE),
    "header with NUL": (raw_npy(b"\0" * 20), INCOMPLETE),
    "header of a set": (raw_npy(b"{'descr', 'fortran_order', 'shape'}"), INCOMPLETE),
    "truncated": (npy(IMAGES.shape, content=CONTENT[:-1]), "needs .* bytes, the file has"),
    "boolean dimension": (npy("(True, 4, 5, 1)", content=CONTENT), "shape that no array"),
    "negative dimension": (npy("(-3, 4, 5, 1)", content=CONTENT), "shape that no array"),
    "negative dimensions": (npy("(-3, -4, 5, 1)", content=CONTENT), "shape that no array"),
    "unprintable dimension": (npy(f"(0x{'f' * 3900}, 4, 5, 1)"), "shape that no array"),
    "dimension beyond int64": (npy((2**63, 4, 5, 1)), "shape that no array"),
    "product beyond int64": (npy((2**62, 2**62, 4, 1)), "needs .* bytes, the file has"),
    "product that wraps to 0": (npy((2**32, 2**32, 1, 1)), "needs .* bytes, the file has"),
    "dimension not a number": (npy("('3', 4, 5, 1)"), INCOMPLETE),
    "shape not a tuple": (npy(60, content=CONTENT), INCOMPLETE),
    "order not a boolean": (npy(IMAGES.shape, is_fortran=1, content=CONTENT), INCOMPLETE),
    "no images": (npy((0, 4, 5, 1)), "must hold at least one image"),
    "no images, no bytes": (npy((0, 2**62, 2**62, 1)), "must hold at least one image"),
    "empty images": (npy((3, 0, 5, 1)), r"must be \[N, H, W, C\]"),
    "scalar": (npy((), content=CONTENT), r"must be \[N, H, W, C\]"),
    "100 dimensions": (npy((1,) * 100, content=CONTENT), r"must be \[N, H, W, C\]"),
    "objects": (npy(IMAGES.shape, "|O", content=CONTENT), "dtype object, must be uint8"),
    "structured": (npy(IMAGES.shape, [("r\n", "|u1")], content=CONTENT), "must be uint8"),
    "subarrays": (npy((3,), ("|u1", (4, 5, 1)), content=CONTENT), "must be uint8"),
    "no such type": (npy(IMAGES.shape, "nonsense", content=CONTENT), INCOMPLETE),
    "signed": (npy(IMAGES.shape, "|i1", content=CONTENT), "dtype int8, must be uint8"),
    "two bytes": (npy(IMAGES.shape, ">u2", content=2 * CONTENT), "dtype >u2, must be uint8"),
    "text numbers": (npy(IMAGES.shape, "|S1", content=CONTENT), "must be uint8"),
    "no bytes in a number": (npy(IMAGES.shape, "|V0", content=CONTENT), "must be uint8"),
}


def assert_refused(path: pathlib.Path, reason: str) -> None:
    """Asserts that the file is no array of images, for this reason, and no array of labels."""
    with pytest.raises(InputError, match=f"^{path}.*{reason}") as images:
        open_images(path)
    with pytest.raises(InputError, match=f"^{path}") as labels:
        open_labels(path, 3)
    for message in map(str, (images.value, labels.value)):
        assert "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("case", BAD_FILES)
def test_damaged_file_is_refused_in_one_line(case, tmp_path):
    content, reason = BAD_FILES[case]
    path = tmp_path / "train_images.npy"
    path.write_bytes(content)
    assert_refused(path, reason)


def test_sparse_file_with_a_header_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "train_images.npy"
    path.write_bytes(raw_npy(b"{", (2, 0), length=2**32 - 1))
    os.truncate(path, 2**33)  # takes no space on disk
    assert_refused(path, "expected 4294967295 bytes")


@pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "device", "link to nothing"])
def test_what_is_not_a_file_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = pathlib.Path("train_images.npy")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    is_link = kind == "link to nothing"
    assert_refused(path, "is a link to nowhere" if is_link else f"a regular file, but a {kind}")


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vae_jax.files.open", refuse, raising=False)  # root may read everything
    write_dataset(tmp_path)
    assert_refused(tmp_path / "train_images.npy", r"cannot be read \(Permission denied\)")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_array_of_a_dataset_is_checked(split, tmp_path):
    for kind in ("images", "labels"):
        write_dataset(tmp_path / kind, validation_images=random_images(2))
        (tmp_path / kind / f"{split}_{kind}.npy").unlink(missing_ok=True)
        (tmp_path / kind / f"{split}_{kind}.npy").symlink_to("nowhere")
        with pytest.raises(ValueError, match=f"{split}_{kind}.npy is a link to nowhere"):
            data.load_split(f"{tmp_path}/{kind}", split, tmp_path)


# What works


@pytest.mark.parametrize("descr", ["|u1", "<u1", ">u1", "B", "uint8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_and_every_name_of_uint8_are_read(descr, version, tmp_path):
    path = tmp_path / "train_images.npy"
    path.write_bytes(npy(IMAGES.shape, descr, version=version, content=CONTENT))
    np.testing.assert_array_equal(open_images(path), IMAGES)
    path.write_bytes(npy((3,), descr, version=version, content=b"\0\1\2"))
    np.testing.assert_array_equal(open_labels(path, 3), [0, 1, 2])


def test_link_to_a_file_is_followed(tmp_path):
    np.save(tmp_path / "elsewhere.npy", IMAGES)
    (tmp_path / "train_images.npy").symlink_to("elsewhere.npy")
    np.testing.assert_array_equal(open_images(tmp_path / "train_images.npy"), IMAGES)


def test_images_in_fortran_order_are_the_same_dataset(tmp_path):
    arrays = write_dataset(tmp_path / "c")
    write_dataset(tmp_path / "f", **{k: np.asfortranarray(v) for k, v in arrays.items()})
    c, f = (data.load_split(f"{tmp_path}/{order}", "train", "", 4) for order in "cf")
    assert f.images.flags.f_contiguous and not f.images.flags.c_contiguous
    rows = np.array([5, 0, 5])
    np.testing.assert_array_equal(f.take(rows), c.take(rows))
    assert data.hash_images([f]) == data.hash_images([c])
