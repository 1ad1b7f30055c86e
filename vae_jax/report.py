"""Writes an evaluation down: metrics.json, images/, report.md, and a table for the console."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import figures
from vae_jax.evaluation import Metric

CAPTIONS = {
    "reconstructions": "Images; below each its reconstruction (mean of p(x|z) at E[z|x])",
    "samples": "Samples of the prior, mean of p(x|z)",
    "samples_drawn": "The same samples, drawn from p(x|z)",
    "interpolations": "Straight lines between the codes of two images (first and last column)",
    "traversals": "One latent dimension a row, from -3 to 3; those of highest rate first",
}


def format_value(metric: Metric) -> str:
    """'-234.56 ± 0.12 nats', '21 of 32', '24.10 dB'."""
    if isinstance(metric.value, int):
        return f"{metric.value} {metric.unit}".strip()
    digits = 3 if metric.unit == "bits" or abs(metric.value) < 2 else 2
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.{digits}f}"
    return f"{metric.value:.{digits}f}{error} {metric.unit}".strip()


def markdown_table(metrics: Mapping[str, Metric]) -> str:
    """One row per metric: value with standard error and unit, images, protocol."""
    rows = [
        f"| `{name}` | {format_value(m)} | {m.num_images:,} {m.split} | {m.protocol} |"
        for name, m in metrics.items()
    ]
    return "\n".join(["| metric | value | images | protocol |", "|---|---|---|---|", *rows])


def console_table(metrics: Mapping[str, Metric]) -> str:
    """The same without the protocol, aligned for a terminal."""
    width = max(map(len, metrics))
    return "\n".join(
        f"  {name:<{width}}  {format_value(m):<24}  {m.num_images:,} {m.split} images"
        for name, m in metrics.items()
    )


def write_evaluation(
    directory: pathlib.Path,
    config: ConfigDict,
    metrics: Mapping[str, Metric],
    grids: Mapping[str, np.ndarray],
) -> list[pathlib.Path]:
    """Writes metrics.json, images/*.png and report.md; returns the paths, report first."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    metrics_path = directory / "metrics.json"
    metrics_path.write_text(json.dumps(content, indent=2) + "\n")
    images = [directory / "images" / f"{name}.png" for name in grids]
    for path, grid in zip(images, grids.values(), strict=True):
        figures.save_image(path, grid)
    report_path = directory / "report.md"
    report_path.write_text(_render_report(config, metrics, images))
    return [report_path, metrics_path, *images]


def _describe_data(config: ConfigDict) -> str:
    if config.data.name == "celeb_a":
        return (
            f"celeb_a, centre crop {config.data.crop} of 178x218, antialiased resize to "
            f"{config.data.image_size}"
        )
    return config.data.name


def _render_report(
    config: ConfigDict, metrics: Mapping[str, Metric], images: list[pathlib.Path]
) -> str:
    first = next(iter(metrics.values()))
    parameters = "averaged (EMA)" if config.eval.use_ema else "raw"
    lines = [
        f"# Evaluation on {_describe_data(config)}",
        "",
        f"Checkpoint of step {first.checkpoint_step:,} of {config.train.num_steps:,}, {parameters} "
        f"parameters, likelihood `{config.likelihood.name}`, latent {config.model.latent_shape}, "
        f"training seed {config.seed}, evaluation seed {first.seed}. "
        "Values are means over images with their standard error.",
        "",
        markdown_table(metrics),
        "",
    ]
    if config.likelihood.name == "bernoulli":
        lines += [
            "The Bernoulli likelihood takes grey values as probabilities: its ELBO bounds the "
            "expected log-probability of binarised images, without bits per dimension.",
            "",
        ]
    lines += ["![training curves](../curves.png)", ""]
    for path in images:
        lines += [f"{CAPTIONS[path.stem]}:", "", f"![{path.stem}](images/{path.name})", ""]
    lines += ["## Configuration", "", "```"]
    lines += [f"{key} = {value}" for key, value in configuration.flatten(config).items()]
    return "\n".join([*lines, "```", ""])
