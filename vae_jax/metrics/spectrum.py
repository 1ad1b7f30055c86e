"""Radial power spectrum of images: how their contrast is distributed over frequencies."""

import numpy as np


def radial_power(images: np.ndarray) -> np.ndarray:
    """Returns power by frequency, [N, K]: column k sums the frequencies that round to k cycles.

    A row sums to the image's variance over pixels, averaged over channels (Parseval), so its
    entries are parts of the squared contrast. Column 0, which belongs to the mean, is set to 0.

    Args:
      images: floating-point [N, H, W, C]; frequencies are counted in cycles per image side.
    """
    x = np.asarray(images, np.float64)
    n, height, width, _ = x.shape
    power = np.abs(np.fft.fft2(x, axes=(1, 2), norm="forward")) ** 2
    power = power.mean(axis=-1).reshape(n, -1)
    vertical = np.fft.fftfreq(height, 1.0 / height)[:, None]
    horizontal = np.fft.fftfreq(width, 1.0 / width)[None]
    cycles = np.rint(np.hypot(vertical, horizontal)).astype(int).ravel()
    radial = np.stack([np.bincount(cycles, weights=row) for row in power])
    radial[:, 0] = 0.0
    return radial


def power_above(radial: np.ndarray, cycles: int) -> np.ndarray:
    """Returns the part of `radial_power` [..., K] above `cycles` cycles per image, [...]."""
    return radial[..., cycles + 1 :].sum(axis=-1)
