"""Writes an evaluation down: metrics.json, gallery.json, images/ and report.md.

python -m vae_jax.report workdir/demo     # prints the numbers of an evaluation again
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import doctor, figures, gallery
from vae_jax.evaluation import Metric
from vae_jax.sample_quality import SETS

METRICS_FILE = "metrics.json"
GALLERY_FILE = "gallery.json"
REPORT_FILE = "report.md"
CAPTIONS = {
    "reconstructions": "Images; below each its reconstruction (mean of p(x|z) at E[z|x])",
    "samples": "Samples of the prior, mean of p(x|z)",
    "samples_drawn": "The same samples, drawn from p(x|z)",
    "samples_tempered": "Samples of the prior at prior.temperature, another model, mean of p(x|z)",
    "nearest_neighbours": "Samples; below each the nearest of at most 10,000 training images, by "
    "squared error",
    "aggregate_posterior": "Decoded draws z ~ q(z|x) of random training images, mean of p(x|z): "
    "where these are better than samples, the prior is to blame",
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
    """One row per metric, sample metrics apart: value with error and unit, images, protocol."""
    rows = []
    for name, m in metrics.items():
        if "/" in name:
            continue
        protocol = m.protocol.replace("|", r"\|")  # a bare one would end the cell
        rows.append(f"| `{name}` | {format_value(m)} | {m.num_images:,} {m.split} | {protocol} |")
    return "\n".join(["| metric | value | images | protocol |", "|---|---|---|---|", *rows])


def is_evaluated(directory: pathlib.Path) -> bool:
    """Whether an evaluation was written there."""
    return (directory / METRICS_FILE).exists()


def _format_sample_value(metric: Metric | None) -> str:
    """'12.34 ± 0.56'; four digits, because a distance may be of any size."""
    if metric is None:
        return ""
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.2g}"
    return f"{metric.value:.4g}{error}"


def _sample_rows(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Metric]]:
    """'samples_vs_test/fid_768' -> {'samples_vs_test': {'fid_768': ...}}."""
    rows: dict[str, dict[str, Metric]] = {}
    for name, metric in metrics.items():
        if "/" in name:
            pair, short = name.split("/")
            rows.setdefault(pair, {})[short] = metric
    return rows


def sample_tables(metrics: Mapping[str, Metric]) -> list[str]:
    """Lines: a table for each split and kind of features, with a row for each set of images."""
    rows = _sample_rows(metrics)
    lines = []
    for split in sorted({pair.rpartition("_vs_")[2] for pair in rows}):
        of_split = {pair: row for pair, row in rows.items() if pair.endswith(f"_vs_{split}")}
        names = list(dict.fromkeys(name for row in of_split.values() for name in row))
        for family in _families(names):
            titles = (f"against {split}", "images", *(f"`{name}`" for name in family))
            lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
            for pair, row in of_split.items():
                label = pair.removesuffix(f"_vs_{split}")
                description = SETS[label].replace("|", r"\|")
                num_images = max(metric.num_images for metric in row.values())
                cells = (_format_sample_value(row.get(name)) for name in family)
                lines.append(f"| `{label}`: {description} | {num_images:,} | {' | '.join(cells)} |")
            protocols: dict[str, list[str]] = {}
            for name, metric in next(iter(of_split.values())).items():
                if name in family:
                    protocols.setdefault(metric.protocol, []).append(f"`{name}`")
            described = [f"{', '.join(names)}: {how}" for how, names in protocols.items()]
            lines += ["", f"Of the first row: {'; '.join(described)}.", ""]
    return lines


def _families(names: list[str]) -> list[list[str]]:
    """Names of one table each: those with the same preprocessing and tap."""
    families: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        tap = name.rpartition("_")[2]
        key = (name.startswith("clean_"), tap if tap.isdigit() else "")
        families.setdefault(key, []).append(name)
    return list(families.values())


def three_distances(metrics: Mapping[str, Metric]) -> list[str]:
    """Lines: distances of reconstructions, decoded posterior and samples, and how to read them.

    The reading goes from the floor over the decoded aggregate posterior to samples: all three are
    independent of the test images. Reconstructions are not. Empty where a distance is missing.
    """
    table = (
        ("real training images (floor)", "train", None),
        ("reconstructions", "reconstruction_means", "reconstructions"),
        ("decoded aggregate posterior", "aggregate_posterior_means", "aggregate_posterior_samples"),
        ("samples of the prior", "sample_means", "samples"),
    )
    rows = _sample_rows(metrics)
    names = [
        name
        for name, metric in rows.get("samples_vs_test", {}).items()
        if name.removeprefix("clean_").startswith("fid") and "biased" not in metric.protocol
    ]
    if not names:
        return []
    name = names[0]
    distance = {
        pair.removesuffix("_vs_test"): row[name].value
        for pair, row in rows.items()
        if pair.endswith("_vs_test") and name in row
    }
    if not {label for _, *labels in table for label in labels if label} <= distance.keys():
        return []
    cells = [
        (label, f"{distance[mean]:.4g}", f"{distance[drawn]:.4g}" if drawn else "")
        for label, mean, drawn in table
    ]
    decoder = distance["aggregate_posterior_means"] - distance["train"]
    prior = distance["sample_means"] - distance["aggregate_posterior_means"]
    pixels = distance["reconstructions"] - distance["reconstruction_means"]
    return [
        f"| `{name}` against test | means of p(x\\|z) | drawn from p(x\\|z) |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
        f"Decoding the codes of real images costs {decoder:.4g} more than the floor, codes of the "
        f"prior {prior:.4g} more than that, drawing pixels instead of taking their mean "
        f"{pixels:.4g} (on reconstructions). {_suspect(decoder, prior, distance['sample_means'])} "
        "Reconstructions are of the very images that they are compared with, so they may lie below "
        "the floor.",
        "",
    ]


def _suspect(decoder: float, prior: float, total: float) -> str:
    """What the larger of the two costs suggests, if it is a tenth of the total."""
    if max(decoder, prior) < 0.1 * total:
        return "Neither of the first two stands out."
    if prior > decoder:
        return (
            "Of the first two the second is larger, which suggests a prior hole: the prior has "
            "mass where no image has its code."
        )
    return (
        "Of the first two the first is larger, which suggests the decoder, the size of the latent "
        "code or the likelihood."
    )


def summarise(directory: pathlib.Path) -> str:
    """The numbers of an evaluation and the paths of its files, for a terminal.

    Raises:
      FileNotFoundError: nothing was evaluated there.
    """
    path = directory / METRICS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run evaluate.py --workdir={directory.parent}.")
    metrics = {name: Metric(**fields) for name, fields in json.loads(path.read_text()).items()}
    first = next(iter(metrics.values()))
    plain = {name: m for name, m in metrics.items() if "/" not in name}
    sample_rows = _sample_rows(metrics)
    width = max(map(len, [*plain, *sample_rows]))
    rows = [
        f"  {name:<{width}}  {format_value(m):<24}  {m.num_images:,} images"
        for name, m in plain.items()
    ]
    for pair, row in sample_rows.items():
        values = (f"{name} {_format_sample_value(m)}" for name, m in row.items())
        rows.append(f"  {pair:<{width}}  {'  '.join(values)}")
    galleries = directory.glob(GALLERY_FILE)  # which evaluations of earlier versions lack
    pictures = [directory.parent / "curves.png", *sorted((directory / "images").glob("*.png"))]
    return "\n".join(
        [
            f"{directory.parent}: {first.split} split, checkpoint of step {first.checkpoint_step}",
            *rows,
            "Written:",
            *(f"  {p}" for p in (directory / REPORT_FILE, path, *galleries, *pictures)),
        ]
    )


def write_evaluation(
    directory: pathlib.Path,
    config: ConfigDict,
    metrics: Mapping[str, Metric],
    grids: Mapping[str, np.ndarray],
    notes: Sequence[str] = (),
    failures: Sequence[gallery.FailureSet] = (),
    diagnosis: doctor.Diagnosis | None = None,
) -> None:
    """Writes images/*.png, gallery.json, diagnosis.*, report.md and, last, metrics.json.

    Args:
      directory: created if missing.
      config: of the run.
      metrics: by name.
      grids: uint8 [H, W, 3] by name.
      notes: what is missing and why.
      failures: the galleries.
      diagnosis: of the checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = [directory / "images" / f"{name}.png" for name in grids]
    for path, grid in zip(images, grids.values(), strict=True):
        figures.save_image(path, grid)
    for of_kind in failures:
        path = directory / "images" / f"{of_kind.ranking.name}.png"
        figures.save_image(path, gallery.draw(of_kind))
    if diagnosis is not None:
        diagnosis.write(directory)
    text = _render_report(config, metrics, images, notes, failures, diagnosis)
    (directory / REPORT_FILE).write_text(text)
    content = [gallery.to_json(of_kind) for of_kind in failures]
    (directory / GALLERY_FILE).write_text(json.dumps(content, indent=2) + "\n")
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
    config: ConfigDict,
    metrics: Mapping[str, Metric],
    images: list[pathlib.Path],
    notes: Sequence[str],
    failures: Sequence[gallery.FailureSet],
    diagnosis: doctor.Diagnosis | None,
) -> str:
    first = next(iter(metrics.values()))
    parameters = "averaged (EMA)" if config.eval.use_ema else "raw"
    lines = [
        f"# Evaluation on {_describe_data(config)}",
        "",
        f"Checkpoint of step {first.checkpoint_step:,} of {config.train.num_steps:,}, {parameters} "
        f"parameters, likelihood `{config.likelihood.name}`, prior `{config.prior.name}`, "
        f"latent {config.model.latent_shape}, training seed {config.seed}, evaluation seed "
        f"{first.seed}. Values are means over images with their standard error.",
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
            "drawn anew at each step in training, drawn once by the evaluation seed here. PSNR, "
            "SSIM and the sample metrics compare with the grey images, from which drawn samples, "
            "being black and white, lie far.",
            "",
        ]
    if diagnosis is not None:
        lines += ["## Diagnosis", "", *diagnosis.to_markdown()]
        lines += [f"![diagnosis]({doctor.FIGURE_FILE})", ""]
    sample_lines = [*three_distances(metrics), *sample_tables(metrics)]
    if notes or sample_lines:
        lines += ["## Sample quality", ""]
        for note in notes:
            lines += [note, ""]
        lines += sample_lines
    lines += ["## Pictures", "", "![training curves](../curves.png)", ""]
    for path in images:
        lines += [f"{CAPTIONS[path.stem]}:", "", f"![{path.stem}](images/{path.name})", ""]
    lines += gallery.markdown(failures)
    lines += ["## Configuration", "", "```"]
    lines += [f"{key} = {value}" for key, value in configuration.flatten(config).items()]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(summarise(pathlib.Path(sys.argv[1]) / "eval"))
