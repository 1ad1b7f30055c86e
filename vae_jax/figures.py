"""Grids of images and training curves: NumPy arrays in, PNG files out."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TARGET_TILE = 64  # pixels; smaller images are enlarged by a whole factor to about this


def to_uint8(images: np.ndarray) -> np.ndarray:
    """uint8, or float in [0, 1] (clipped, never stretched) -> uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.round(255.0 * np.clip(images.astype(np.float64), 0.0, 1.0)).astype(np.uint8)


def to_uint8_rgb(images: np.ndarray) -> np.ndarray:
    """Likewise, [..., C] -> [..., 3]; grey images are repeated."""
    images = to_uint8(images)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def image_grid(images: np.ndarray, num_columns: int, gap: int = 2) -> np.ndarray:
    """Tiles images [N, H, W, C] row by row on white; returns uint8 [rows, columns, 3].

    Images of less than 64 pixels are enlarged by a whole factor, without smoothing.
    """
    images = to_uint8_rgb(images)
    factor = max(1, TARGET_TILE // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    n, height, width, _ = images.shape
    num_rows = -(-n // num_columns)
    cell_height, cell_width = height + gap, width + gap
    grid = np.full((num_rows * cell_height + gap, num_columns * cell_width + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // num_columns * cell_height, gap + i % num_columns * cell_width
        grid[top : top + height, left : left + width] = image
    return grid


def paired_grid(originals: np.ndarray, others: np.ndarray, num_columns: int) -> np.ndarray:
    """Rows alternate: originals [N, H, W, C], and below each its counterpart; white at the end."""
    missing = -len(originals) % num_columns
    white = np.full((missing, *originals.shape[1:3], 3), 255, np.uint8)
    originals = np.concatenate([to_uint8_rgb(originals), white])
    others = np.concatenate([to_uint8_rgb(others), white])
    rows = []
    for start in range(0, len(originals), num_columns):
        stop = start + num_columns
        rows += [originals[start:stop], others[start:stop]]
    return image_grid(np.concatenate(rows), num_columns)


def save_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, optimize=True)


CURVES = (
    ("loss (nats per image)", ("train/loss",), "linear"),
    ("ELBO (nats per image)", ("train/elbo", "validation/elbo"), "linear"),
    ("distortion (nats)", ("train/distortion", "validation/distortion"), "linear"),
    ("rate (nats)", ("train/rate", "validation/rate"), "linear"),
    ("KL weight", ("train/kl_weight",), "linear"),
    ("gradient norm", ("train/grad_norm", "train/grad_norm_max"), "log"),
)


def _limit_to_settled(axis: plt.Axes, points: Sequence[tuple[int, float]]) -> None:
    """Cuts the start (the first 5% of the steps) off the vertical axis, and nothing else."""
    last = max((step for step, _ in points), default=0)
    settled = [v for step, v in points if step > 0.05 * last and np.isfinite(v)]
    if len(settled) > 1 and max(settled) > min(settled):
        margin = 0.05 * (max(settled) - min(settled))
        axis.set_ylim(min(settled) - margin, max(settled) + margin)


def save_curves(path: pathlib.Path, records: Sequence[dict[str, float]]) -> None:
    """Six panels over the steps: loss, ELBO, distortion, rate, KL weight, gradient norm.

    Args:
      path: of the PNG.
      records: as read from metrics.jsonl.
    """
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, names, scale) in zip(axes.flat, CURVES, strict=True):
        plotted = []
        for name in names:
            points = [(r["step"], r[name]) for r in records if name in r]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if name.startswith("validation") else ""
                axis.plot(steps, values, marker=marker, markersize=3, label=name)
                plotted += points
        axis.set(title=title, xlabel="step", yscale=scale)
        if scale == "linear" and "KL" not in title:
            _limit_to_settled(axis, plotted)
        axis.grid(alpha=0.3)
        if plotted and len(names) > 1:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
