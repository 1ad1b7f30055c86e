"""Grids of images and training curves: NumPy arrays in, PNG files out."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

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


def save_labelled_rows(path: pathlib.Path, rows: Mapping[str, np.ndarray]) -> None:
    """Writes a PNG with one row of images [N, H, W, C] under each label."""
    strips = {label: image_grid(images, len(images)) for label, images in rows.items()}
    height, width, _ = next(iter(strips.values())).shape
    scale = 14.0 / width  # inches per pixel
    figure, axes = plt.subplots(
        len(strips),
        1,
        figsize=(14.0, len(strips) * (scale * height + 0.25)),
        layout="constrained",
        squeeze=False,
    )
    for axis, (label, strip) in zip(axes.flat, strips.items(), strict=True):
        axis.imshow(strip)
        axis.set_title(label, loc="left", fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=100)
    plt.close(figure)


CURVES = (
    ("loss (nats per image)", ("train/loss",), "linear"),
    ("ELBO (nats per image)", ("train/elbo", "validation/elbo"), "linear"),
    ("distortion (nats)", ("train/distortion", "validation/distortion"), "linear"),
    ("rate (nats)", ("train/rate", "validation/rate"), "linear"),
    ("KL weight", ("train/kl_weight",), "linear"),
    ("gradient norm", ("train/grad_norm", "train/grad_norm_max"), "log"),
)


def _scale(scale: str, values: Sequence[float]) -> str:
    """`scale`, but linear where no value is positive and there is no logarithm."""
    return scale if len(values) == 0 or np.any(np.asarray(values) > 0) else "linear"


def _limit_to_settled(axis: plt.Axes, points: Sequence[tuple[int, float]]) -> None:
    """Cuts the start (the first 5% of the steps) off the vertical axis, and nothing else."""
    last = max((step for step, _ in points), default=0)
    settled = [v for step, v in points if step > 0.05 * last and np.isfinite(v)]
    if len(settled) > 1 and max(settled) > min(settled):
        margin = 0.05 * (max(settled) - min(settled))
        axis.set_ylim(min(settled) - margin, max(settled) + margin)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
      title, xlabel: texts.
      lines: (x, y) by label.
      thresholds: heights of dashed lines by label.
      log_y: a logarithmic vertical axis.
      settled: leave the start of a run out of the vertical axis.
    """

    title: str
    xlabel: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log_y: bool = False
    settled: bool = False


def save_panels(path: pathlib.Path, panels: Sequence[Panel], num_columns: int = 4) -> None:
    """Writes a figure of several panels as PNG."""
    num_rows = -(-len(panels) // num_columns)
    figure, axes = plt.subplots(
        num_rows, num_columns, figsize=(15, 3.4 * num_rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, (x, y) in panel.lines.items():
            axis.plot(x, y, marker="." if len(x) < 60 else "", label=label)
        for label, height in panel.thresholds.items():
            axis.axhline(height, color="grey", linestyle="--", linewidth=1)
            axis.annotate(label, (0.01, height), xycoords=("axes fraction", "data"), fontsize=7)
        axis.set(title=panel.title, xlabel=panel.xlabel)
        heights = np.concatenate([np.ravel(y) for _, y in panel.lines.values()])
        axis.set_yscale(_scale("log" if panel.log_y else "linear", heights))
        axis.locator_params(axis="x", nbins=5)  # long numbers do not overlap
        if panel.settled:
            points = [point for x, y in panel.lines.values() for point in zip(x, y, strict=True)]
            _limit_to_settled(axis, points)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def save_scatter_panels(
    path: pathlib.Path, panels: Mapping[str, np.ndarray], num_columns: int = 4
) -> None:
    """Writes a PNG of points [N, 2] under each title, all on the same axes."""
    num_rows = -(-len(panels) // num_columns)
    figure, axes = plt.subplots(
        num_rows,
        num_columns,
        figsize=(3.2 * num_columns, 2.6 * num_rows),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        axis.plot(*np.transpose(points), ".", markersize=2.5, alpha=0.5, markeredgewidth=0)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelbottom=True, labelleft=True)  # below it there may be no panel
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


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
        axis.set(title=title, xlabel="step", yscale=_scale(scale, [v for _, v in plotted]))
        if scale == "linear" and "KL" not in title:
            _limit_to_settled(axis, plotted)
        axis.grid(alpha=0.3)
        if plotted and len(names) > 1:
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation over seeds, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _plot_trade_off(axis: plt.Axes, content: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """The second metric over the first: a dot per seed, a line through the variants' means."""
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


def _plot_metrics(axis: plt.Axes, content: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One or two metrics over the variants, each with its axis and colour: means with deviations.

    The dots beside them are the seeds.
    """
    for i, (label, of_variants) in enumerate(content.items()):
        axis = axis.twinx() if i else axis
        color, position = f"C{3 * i}", 0.25 * i
        for values in of_variants.values():
            axis.plot([position - 0.1] * len(values), values, ".", color=color, alpha=0.4)
            if values:
                mean, error = np.mean(values), _deviation(values)
                axis.errorbar(position, mean, error, fmt="os"[i], color=color)
            position += 1.0
        axis.set_ylabel(label, color=color)
        axis.tick_params(axis="y", colors=color)
        names = [name.replace("_", " ") for name in of_variants]
        slanted = {"rotation": 25, "ha": "right"} if max(map(len, names)) > 6 else {}
        axis.set_xticks(0.1 + np.arange(len(names)), names, **slanted)


def _plot_curves(
    axis: plt.Axes, content: Mapping[str, Mapping[str, Sequence[Sequence[tuple[int, float]]]]]
) -> None:
    """A metric over the steps: a line per seed, a colour per variant."""
    for label, of_variants in content.items():
        heights = []
        for i, (name, curves) in enumerate(of_variants.items()):
            for j, curve in enumerate(curves):
                steps, values = zip(*curve, strict=True)
                text = "" if j else name.replace("_", " ")
                axis.plot(steps, values, color=f"C{i}", alpha=0.7, label=text)
                heights += [v for v in values if np.isfinite(v)]
        # What diverges would press all else onto the axis.
        if heights and 0 < 4 * min(heights) < max(heights):
            axis.set_yscale("log")
        axis.set(xlabel="step", ylabel=label)
        if heights:
            axis.legend()


ABLATION_PANELS = {
    "trade_off": _plot_trade_off,
    "metrics": _plot_metrics,
    "curves": _plot_curves,
}


def save_ablation(path: pathlib.Path, panels: Sequence[tuple[str, str, Mapping]]) -> None:
    """Panels that compare the variants of a configuration, three in a row.

    Args:
      path: of the PNG.
      panels: (kind, title, {label: {variant: [one per seed]}}); kind is a key of
        `ABLATION_PANELS`. Of curves one per seed is [(step, value), ...], otherwise a number.
    """
    num_rows = -(-len(panels) // 3)
    with plt.rc_context({"font.size": 10, "legend.fontsize": 9, "axes.titlesize": 11}):
        figure, axes = plt.subplots(
            num_rows, 3, figsize=(12, 3 * num_rows), layout="constrained", squeeze=False
        )
        for axis, (kind, title, content) in zip(axes.flat, panels, strict=False):
            ABLATION_PANELS[kind](axis, content)
            axis.set_title(title)
            axis.grid(alpha=0.3)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        figure.savefig(path, dpi=100)
        plt.close(figure)
