"""Opens image and label arrays as memory maps and checks them."""

import pathlib

import numpy as np

from vae_jax.errors import InputError

_NUM_IMAGES_CHECKED = 64  # enough to show a wrong value range without reading the whole file


def _open_array(path: pathlib.Path) -> np.ndarray:
    """Maps a .npy file; raises an InputError if it is incomplete or not an array of numbers."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: not a complete .npy file of numbers ({error}). Write it again with np.save."
        ) from error


def open_images(path: pathlib.Path) -> np.ndarray:
    """Maps an image file, uint8 `[N, H, W, C]`, and checks it.

    Raises:
      InputError: the file is not such an array, is empty, or its values look like [0, 1].
    """
    images = _open_array(path)
    if images.dtype != np.uint8:
        raise InputError(
            f"{path}: dtype {images.dtype}, must be uint8 (0 to 255). Images in [0, 1]: save "
            "np.round(images * 255).astype(np.uint8)."
        )
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise InputError(
            f"{path}: shape {images.shape}, must be [N, H, W, C] with C 1 or 3. Grey images: save "
            "images[..., np.newaxis]; channels first: np.moveaxis(images, 1, -1)."
        )
    if len(images) == 0:
        raise InputError(f"{path}: shape {images.shape}, must hold at least one image. Add images.")
    rows = np.linspace(0, len(images) - 1, min(len(images), _NUM_IMAGES_CHECKED)).astype(np.int64)
    maximum = images[rows].max()
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
    if not path.exists():
        return None
    labels = _open_array(path)
    if labels.dtype != np.uint8 or labels.shape != (num_images,):
        raise InputError(
            f"{path}: {labels.dtype} of shape {labels.shape}, must be uint8 of shape "
            f"({num_images},), one label per image. Save one label per image with "
            "labels.astype(np.uint8), or remove the file: labels are optional."
        )
    return labels


def check_same_shape(directory: pathlib.Path, split: str, images: np.ndarray) -> None:
    """Raises an InputError unless a split's images have the shape of the training images."""
    train_shape = open_images(directory / "train_images.npy").shape[1:]
    if images.shape[1:] != train_shape:
        raise InputError(
            f"{directory / f'{split}_images.npy'}: images of shape {images.shape[1:]}, must be "
            f"{train_shape} as in train_images.npy. Resize one of the two."
        )
