"""Writes an evaluation down: metrics.json, images/ and report.md.

python -m vae_jax.report workdir/demo     # prints the numbers of an evaluation again
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import figures
from vae_jax.evaluation import Metric

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.md"
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
    rows = []
    for name, m in metrics.items():
        protocol = m.protocol.replace("|", r"\|")  # a bare one would end the cell
        rows.append(f"| `{name}` | {format_value(m)} | {m.num_images:,} {m.split} | {protocol} |")
    return "\n".join(["| metric | value | images | protocol |", "|---|---|---|---|", *rows])


def summarise(directory: pathlib.Path) -> str:
    """The numbers of an evaluation and the paths of its files, for a terminal.

    Raises:
      FileNotFoundError: nothing was evaluated there.
    """
    path = directory / METRICS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run evaluate.py --workdir={directory.parent}.")
    metrics = {name: Metric(**fields) for name, fields in json.loads(path.read_text()).items()}
    first, width = next(iter(metrics.values())), max(map(len, metrics))
    rows = [
        f"  {name:<{width}}  {format_value(m):<24}  {m.num_images:,} images"
        for name, m in metrics.items()
    ]
    pictures = [directory.parent / "curves.png", *sorted((directory / "images").glob("*.png"))]
    return "\n".join(
        [
            f"{directory.parent}: {first.split} split, checkpoint of step {first.checkpoint_step}",
            *rows,
            "Written:",
            *(f"  {p}" for p in (directory / REPORT_FILE, path, *pictures)),
        ]
    )


def write_evaluation(
    directory: pathlib.Path,
    config: ConfigDict,
    metrics: Mapping[str, Metric],
    grids: Mapping[str, np.ndarray],
) -> None:
    """Writes images/*.png, report.md and, last, metrics.json."""
    directory.mkdir(parents=True, exist_ok=True)
    images = [directory / "images" / f"{name}.png" for name in grids]
    for path, grid in zip(images, grids.values(), strict=True):
        figures.save_image(path, grid)
    (directory / REPORT_FILE).write_text(_render_report(config, metrics, images))
    content = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    (directory / METRICS_FILE).write_text(json.dumps(content, indent=2) + "\n")


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
    if config.likelihood.name == "bernoulli" and not config.likelihood.binarize:
        lines += [
            "The Bernoulli likelihood takes grey values as probabilities: its ELBO bounds the "
            "expected log-probability of binarised images, without bits per dimension.",
            "",
        ]
    if config.likelihood.binarize:
        lines += [
            "The model is one of binary images, each pixel 1 with its grey value's probability: "
            "drawn anew at each step in training, drawn once by the evaluation seed here. PSNR and "
            "SSIM compare with the grey images.",
            "",
        ]
    lines += ["![training curves](../curves.png)", ""]
    for path in images:
        lines += [f"{CAPTIONS[path.stem]}:", "", f"![{path.stem}](images/{path.name})", ""]
    lines += ["## Configuration", "", "```"]
    lines += [f"{key} = {value}" for key, value in configuration.flatten(config).items()]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(summarise(pathlib.Path(sys.argv[1]) / "eval"))
