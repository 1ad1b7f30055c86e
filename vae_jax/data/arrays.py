"""Opens image and label arrays as memory maps and checks them.

An array may come from anywhere: everything that its header says is checked before it is used.
"""

import dataclasses
import io
import math
import os
import pathlib
import sys
from typing import Literal

import numpy as np

from vae_jax.errors import InputError
from vae_jax.files import open_regular

_NUM_IMAGES_CHECKED = 64  # enough to show a wrong value range without reading the whole file
_HEADER_BYTES = 4096  # np.save writes 128 for an array of numbers


@dataclasses.dataclass(frozen=True)
class _Header:
    """What a .npy file says of its array, and where the numbers begin, in bytes."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    offset: int


def _read_header(path: pathlib.Path) -> _Header:
    """Reads the header of a .npy file.

    Raises:
      InputError: the file cannot be read, or does not begin as np.save begins a file of numbers.
    """
    try:
        with open_regular(path) as file:
            start = io.BytesIO(file.read(_HEADER_BYTES))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Put the array there, and give "
            "this user the right to read it."
        ) from error
    try:
        version = np.lib.format.read_magic(start)
        if version == (1, 0):
            fields = np.lib.format.read_array_header_1_0(start)
        else:  # version 3 differs in the names of fields only, which numbers do not have
            fields = np.lib.format.read_array_header_2_0(start)
    except Exception as error:  # the header is Python source; what its parsers raise has no end
        raise _incomplete(path, " ".join(str(error).split())[:200]) from error
    header = _Header(*fields, offset=start.tell())
    # True is an int to Python, and a number of 4000 digits cannot be printed.
    if not all(type(n) is int and 0 <= n <= sys.maxsize for n in header.shape):
        raise _incomplete(path, "its header has a shape that no array can have")
    return header


def _map(path: pathlib.Path, header: _Header) -> np.ndarray:
    """Maps the numbers of a .npy file; raises an InputError if the file ends before they do."""
    needed = header.offset + math.prod(header.shape) * header.dtype.itemsize
    size = os.stat(path).st_size
    if size < needed:
        raise _incomplete(path, f"shape {header.shape} needs {needed} bytes, the file has {size}")
    order: Literal["F", "C"] = "F" if header.is_fortran else "C"
    return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)


def _incomplete(path: pathlib.Path, reason: str) -> InputError:
    return InputError(
        f"{path}: not a complete .npy file of numbers ({reason}). Write it again with np.save."
    )


def open_images(path: pathlib.Path) -> np.ndarray:
    """Maps an image file, uint8 `[N, H, W, C]`, and checks it.

    Raises:
      InputError: the file is not such an array, is empty, or its values look like [0, 1].
    """
    header = _read_header(path)
    shape = header.shape
    if header.dtype != np.uint8:
        remedy = "Images in [0, 1]: save np.round(images * 255).astype(np.uint8)."
        if header.dtype.hasobject:
            remedy = "Images of several sizes: resize them to one size before np.stack."
        raise InputError(f"{path}: dtype {header.dtype}, must be uint8 (0 to 255). {remedy}")
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise InputError(
            f"{path}: shape {shape}, must be [N, H, W, C] with C 1 or 3. Grey images: save "
            "images[..., np.newaxis]; channels first: np.moveaxis(images, 1, -1)."
        )
    if shape[0] == 0:
        raise InputError(f"{path}: shape {shape}, must hold at least one image. Add images.")
    images = _map(path, header)
    rows = np.linspace(0, len(images) - 1, min(len(images), _NUM_IMAGES_CHECKED)).astype(np.int64)
    maximum = max(images[row].max() for row in rows)  # without a copy, whatever an image's size
    if maximum <= 1:
        raise InputError(
            f"{path}: the largest value in a sample of {len(rows)} images is {maximum}, must be on "
            "the scale 0 to 255. Images in [0, 1]: multiply by 255 before the cast to uint8."
        )
    return images


def open_labels(path: pathlib.Path, num_images: int) -> np.ndarray | None:
    """Maps a label file, uint8 `[num_images]`, and checks it; returns None if there is no file.

    Raises:
      InputError: the file is not such an array.
    """
    if not os.path.lexists(path):  # a link to nothing is an error, not a dataset without labels
        return None
    header = _read_header(path)
    if header.dtype != np.uint8 or header.shape != (num_images,):
        raise InputError(
            f"{path}: {header.dtype} of shape {header.shape}, must be uint8 of shape "
            f"({num_images},), one label per image. Save one label per image with "
            "labels.astype(np.uint8), or move the file away: labels are optional."
        )
    return _map(path, header)


def check_same_shape(directory: pathlib.Path, split: str, images: np.ndarray) -> None:
    """Raises an InputError unless a split's images have the shape of the training images."""
    train_shape = open_images(directory / "train_images.npy").shape[1:]
    if images.shape[1:] != train_shape:
        raise InputError(
            f"{directory / f'{split}_images.npy'}: images of shape {images.shape[1:]}, must be "
            f"{train_shape} as in train_images.npy. Resize one of the two."
        )
