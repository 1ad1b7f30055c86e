"""Image grids, training curves and comparison panels, drawn from NumPy arrays into PNG files.

A picture is drawn in memory and then written whole, so that a kill leaves no part of one.

Functions import matplotlib when they draw, because that takes a fifth of the time in which a
command starts. They do not use pyplot, whose global state belongs to the user.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vae_jax import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET_TILE = 64  # pixels; smaller images are enlarged by an integer factor to about this size
MAX_TILE = 512  # pixels; images of twice this size are reduced by an integer factor to about this


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Converts float images in [0, 1] to uint8: clipped, never stretched. Keeps uint8 images."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    levels = images.astype(np.float64)
    np.clip(levels, 0.0, 1.0, out=levels)  # in place, because images may be large
    levels *= 255.0
    return np.round(levels, out=levels).astype(np.uint8)


def to_uint8_rgb(images: np.ndarray) -> np.ndarray:
    """Converts images [..., C] to uint8 [..., 3], repeating the channel of grey images."""
    images = to_uint8(images)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def reduce_large(images: np.ndarray) -> np.ndarray:
    """Reduces uint8 images [N, H, W, C] by block means if a side has 1024 or more pixels."""
    n, height, width, channels = images.shape
    factor = max(height, width) // MAX_TILE
    if factor < 2:
        return images
    down, across = min(factor, height), min(factor, width)
    height, width = height // down, width // across
    blocks = images[:, : height * down, : width * across].reshape(
        n, height, down, width, across, channels
    )
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def image_grid(images: np.ndarray, num_columns: int, gap: int = 2) -> np.ndarray:
    """Tiles images [N, H, W, C] row by row on white; returns uint8 [height, width, 3].

    Images whose longer side has fewer than TARGET_TILE pixels are enlarged by an integer factor,
    without smoothing. Very large ones are reduced, see `reduce_large`.
    """
    images = to_uint8_rgb(reduce_large(to_uint8(images)))
    factor = TARGET_TILE // max(images.shape[1:3])
    if factor > 1:
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
    """Tiles images with each row of originals [N, H, W, C] above the row of their counterparts.

    White tiles fill the last two rows.
    """
    originals, others = (
        to_uint8_rgb(reduce_large(to_uint8(images))) for images in (originals, others)
    )
    white = np.full((-len(originals) % num_columns, *originals.shape[1:]), 255, np.uint8)
    originals, others = (np.concatenate([images, white]) for images in (originals, others))
    rows = []
    for start in range(0, len(originals), num_columns):
        stop = start + num_columns
        rows += [originals[start:stop], others[start:stop]]
    return image_grid(np.concatenate(rows), num_columns)


def save_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W, 3], as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png", optimize=True)
    files.write_bytes(path, content.getvalue())


def save_figure(path: pathlib.Path, figure: Figure) -> None:
    """Writes a figure as a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    files.write_bytes(path, content.getvalue())


def _create_axes(
    num_rows: int, num_columns: int, width: float, height: float
) -> tuple[Figure, np.ndarray]:
    """Creates a figure and its axes [num_rows, num_columns], each in a cell of this size in inches.

    The margins are fixed, with room for numbers of six digits and for a title at y = 1. With a
    constrained layout and titles that find their own place, drawing takes three times as long, and
    a run draws at every evaluation.
    """
    from matplotlib.figure import Figure

    left, right, bottom, top = 0.8, 0.25, 0.5, 0.35
    figure = Figure(figsize=(num_columns * width, num_rows * height))
    figure.subplots_adjust(
        left=left / (num_columns * width),
        right=1.0 - right / (num_columns * width),
        bottom=bottom / (num_rows * height),
        top=1.0 - top / (num_rows * height),
        wspace=(left + right) / (width - left - right),
        hspace=(bottom + top) / (height - bottom - top),
    )
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def save_labelled_rows(path: pathlib.Path, rows: Mapping[str, np.ndarray]) -> None:
    """Writes a PNG with one row of images [N, H, W, C] under each label."""
    from matplotlib.figure import Figure

    strips = {label: image_grid(images, len(images)) for label, images in rows.items()}
    height, width, _ = next(iter(strips.values())).shape
    scale = 14.0 / width  # inches per pixel
    size = (14.0, len(strips) * (scale * height + 0.25))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(strips), 1, squeeze=False)
    for axis, (label, strip) in zip(axes.flat, strips.items(), strict=True):
        axis.imshow(strip)
        axis.set_title(label, loc="left", fontsize=10)
        axis.axis("off")
    save_figure(path, figure)


CURVES = (
    ("loss (nats per image)", ("train/loss",), "linear"),
    ("ELBO (nats per image)", ("train/elbo", "validation/elbo"), "linear"),
    ("distortion (nats)", ("train/distortion", "validation/distortion"), "linear"),
    ("rate (nats)", ("train/rate", "validation/rate"), "linear"),
    ("KL weight", ("train/kl_weight",), "linear"),
    ("gradient norm", ("train/grad_norm", "train/grad_norm_max"), "log"),
)


def _scale(scale: str, values: Sequence[float] | np.ndarray) -> str:
    """Returns `scale`, or "linear" if no value is positive and has a logarithm."""
    return scale if len(values) == 0 or np.any(np.asarray(values) > 0) else "linear"


def _limit_to_settled(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Fits the vertical axis to the points after the first 5% of the steps."""
    last = max((step for step, _ in points), default=0)
    settled = [v for step, v in points if step > 0.05 * last and np.isfinite(v)]
    if len(settled) > 1 and max(settled) > min(settled):
        margin = 0.05 * (max(settled) - min(settled))
        axis.set_ylim(min(settled) - margin, max(settled) + margin)


@dataclasses.dataclass(frozen=True)
class Panel:
    """Content of one set of axes.

    Attributes:
      title: text above the axes.
      xlabel: text below the horizontal axis.
      lines: label -> (x, y).
      thresholds: label -> height of a dashed horizontal line.
      log_y: whether the vertical axis is logarithmic.
      settled: whether to fit the vertical axis without the start of the run.
    """

    title: str
    xlabel: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log_y: bool = False
    settled: bool = False


def save_panels(path: pathlib.Path, panels: Sequence[Panel], num_columns: int = 4) -> None:
    """Writes a PNG of several panels, row by row."""
    num_rows = -(-len(panels) // num_columns)
    figure, axes = _create_axes(num_rows, num_columns, width=15.0 / num_columns, height=3.4)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, (x, y) in panel.lines.items():
            axis.plot(x, y, marker="." if len(x) < 60 else "", label=label)
        for label, height in panel.thresholds.items():
            axis.axhline(height, color="grey", linestyle="--", linewidth=1)
            axis.annotate(label, (0.01, height), xycoords=("axes fraction", "data"), fontsize=7)
        axis.set_title(panel.title, y=1.0)
        axis.set_xlabel(panel.xlabel)
        heights = np.concatenate([np.ravel(y) for _, y in panel.lines.values()])
        axis.set_yscale(_scale("log" if panel.log_y else "linear", heights))
        axis.locator_params(axis="x", nbins=5)  # so that long numbers do not overlap
        if panel.settled:
            points = [point for x, y in panel.lines.values() for point in zip(x, y, strict=True)]
            _limit_to_settled(axis, points)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(path, figure)


def save_curves(path: pathlib.Path, records: Sequence[dict[str, float]]) -> None:
    """Writes a PNG of loss, ELBO, distortion, rate, KL weight and gradient norm over the steps.

    Args:
      path: path of the PNG.
      records: records as `read_metrics` reads them from metrics.jsonl.
    """
    figure, axes = _create_axes(2, 3, width=4.0, height=3.0)
    for axis, (title, names, scale) in zip(axes.flat, CURVES, strict=True):
        plotted = []
        for name in names:
            points = [(r["step"], r[name]) for r in records if name in r]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if name.startswith("validation") else ""
                axis.plot(steps, values, marker=marker, markersize=3, label=name)
                plotted += points
        axis.set_title(title, y=1.0)
        axis.set(xlabel="step", yscale=_scale(scale, [v for _, v in plotted]))
        axis.locator_params(axis="x", nbins=5)  # so that long numbers do not overlap
        if scale == "linear" and "KL" not in title:
            _limit_to_settled(axis, plotted)
        axis.grid(alpha=0.3)
        if plotted and len(names) > 1:
            axis.legend(fontsize=8)
    save_figure(path, figure)


def _deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation over seeds; 0 for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _plot_trade_off(axis: Axes, content: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plots the second metric over the first: a dot per seed, a line through variants' means."""
    if len(content) < 2:
        return
    (x_label, xs), (y_label, ys) = content.items()
    names = [name for name in xs if xs[name]]
    means = [(np.mean(xs[name]), np.mean(ys[name])) for name in names]
    spread = [(_deviation(xs[name]), _deviation(ys[name])) for name in names]
    for name in names:
        axis.plot(xs[name], ys[name], ".", color="C0", alpha=0.5)
    if names:
        (x, y), (x_error, y_error) = np.transpose(means), np.transpose(spread)
        axis.errorbar(x, y, y_error, x_error, color="C0", capsize=3)
    for name, mean in zip(names, means, strict=True):
        axis.annotate(name, mean, (6, 6), textcoords="offset points")
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.margins(0.12)


def _plot_metrics(axis: Axes, content: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Plots one or two metrics over the variants, each with its own axis and colour.

    Markers are means with standard deviations; the dots beside them are single seeds.
    """
    for i, (label, values_by_variant) in enumerate(content.items()):
        axis = axis.twinx() if i else axis
        color, position = f"C{3 * i}", 0.25 * i
        for values in values_by_variant.values():
            axis.plot([position - 0.1] * len(values), values, ".", color=color, alpha=0.4)
            if values:
                mean, error = np.mean(values), _deviation(values)
                axis.errorbar(position, mean, error, fmt="os"[i], color=color)
            position += 1.0
        axis.set_ylabel(label, color=color)
        axis.tick_params(axis="y", colors=color)
        names = [name.replace("_", " ") for name in values_by_variant]
        slanted: dict[str, Any] = {}
        if max(map(len, names)) > 6:
            slanted = {"rotation": 25, "ha": "right"}
        axis.set_xticks(0.1 + np.arange(len(names)), names, **slanted)


def _plot_curves(
    axis: Axes, content: Mapping[str, Mapping[str, Sequence[Sequence[tuple[int, float]]]]]
) -> None:
    """Plots a metric over the steps: a line per seed, a colour per variant."""
    for label, curves_by_variant in content.items():
        heights = []
        for i, (name, curves) in enumerate(curves_by_variant.items()):
            for j, curve in enumerate(curves):
                steps, values = zip(*curve, strict=True)
                text = "" if j else name.replace("_", " ")
                axis.plot(steps, values, color=f"C{i}", alpha=0.7, label=text)
                heights += [v for v in values if np.isfinite(v)]
        # On a linear scale a diverging curve would flatten all others.
        if heights and 0 < 4 * min(heights) < max(heights):
            axis.set_yscale("log")
        axis.set(xlabel="step", ylabel=label)
        if heights:
            axis.legend()


ABLATION_PANELS: Mapping[str, Callable[[Axes, Mapping], None]] = {
    "trade_off": _plot_trade_off,
    "metrics": _plot_metrics,
    "curves": _plot_curves,
}


def save_ablation(path: pathlib.Path, panels: Sequence[tuple[str, str, Mapping]]) -> None:
    """Writes a PNG of panels that compare the variants of a configuration, three in a row.

    Args:
      path: path of the PNG.
      panels: (kind, title, {label: {variant: [one entry per seed]}}). The kind is a key of
        `ABLATION_PANELS`. An entry is [(step, value), ...] in a panel of curves, otherwise a
        number.
    """
    import matplotlib
    from matplotlib.figure import Figure

    num_rows = -(-len(panels) // 3)
    with matplotlib.rc_context({"font.size": 10, "legend.fontsize": 9, "axes.titlesize": 11}):
        figure = Figure(figsize=(12, 3 * num_rows), layout="constrained")
        axes = figure.subplots(num_rows, 3, squeeze=False)
        for axis, (kind, title, content) in zip(axes.flat, panels, strict=False):
            ABLATION_PANELS[kind](axis, content)
            axis.set_title(title, y=1.0)
            axis.grid(alpha=0.3)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        save_figure(path, figure)
