"""What a report says, whatever it is written in: sentences and tables as data."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import doctor, gallery
from vae_jax.inference.image_sets import SETS
from vae_jax.metrics.metric import Metric
from vae_jax.recording.tables import Table

CURVES_FILE = "curves.png"  # beside the evaluation's directory
CAPTIONS = {
    "reconstructions": "Images; below each its reconstruction (mean of p(x|z) at E[z|x])",
    "samples": "Samples of the prior, mean of p(x|z)",
    "samples_drawn": "The same samples, drawn from p(x|z)",
    "samples_tempered": "Samples of the prior at prior.temperature, another model, mean of p(x|z)",
    "nearest_neighbours": "Samples; below each the nearest of at most 10,000 training images (and "
    "their mirror images, where training sees these), by squared error",
    "aggregate_posterior": "Decoded draws z ~ q(z|x) of random training images, mean of p(x|z): "
    "where these are better than samples, the prior is to blame",
    "interpolations": "Straight lines between the codes of two images (first and last column)",
    "interpolations_of_noise": "Between draws z ~ q(z|x) of two images along the prior: the noise "
    "that it makes them of, and arcs between those",
    "principal_directions": "Latent arithmetic: principal directions of the aggregate posterior "
    "added to the codes of two images, from -3 to 3 standard deviations, two rows a direction; "
    "that of the largest variance first",
    "traversals": "One latent dimension a row, from -3 to 3; those of highest rate first",
}
GREY_AS_PROBABILITY = (
    "The Bernoulli likelihood takes grey values as probabilities: its ELBO bounds the "
    "expected log-probability of binarised images, without bits per dimension."
)
BINARY_IMAGES = (
    "The model is one of binary images, each pixel 1 with its grey value's probability: "
    "drawn anew at each step in training, drawn once by the evaluation seed here. PSNR, "
    "SSIM and the sample metrics compare with the grey images, from which drawn samples, "
    "being black and white, lie far."
)
DISTANCES = (  # of the rows: what they are, and the sets of means and of draws
    ("real training images (floor)", "train", None),
    ("reconstructions", "reconstruction_means", "reconstructions"),
    ("decoded aggregate posterior", "aggregate_posterior_means", "aggregate_posterior_samples"),
    ("samples of the prior", "sample_means", "samples"),
)


@dataclasses.dataclass(frozen=True)
class Content:
    """All that a report says; in its text `backticks` mark code.

    Attributes:
      title, summary: what was evaluated, and how.
      metrics: those of bounds, codes and reconstructions.
      remarks: on how to read them.
      diagnosis: of the checkpoint, where it was examined.
      notes: what is missing and why.
      sample_tables: the three distances and their reading, then all sample metrics.
      captions: of images/NAME.png by name.
      galleries: of failures.
      configuration: of the run, by dotted key.
    """

    title: str
    summary: str
    metrics: Table
    remarks: Sequence[str]
    diagnosis: doctor.Diagnosis | None
    notes: Sequence[str]
    sample_tables: Sequence[Table]
    captions: Mapping[str, str]
    galleries: Sequence[gallery.Section]
    configuration: Mapping[str, object]


def create_content(
    config: ConfigDict,
    metrics: Mapping[str, Metric],
    grids: Iterable[str],
    notes: Sequence[str],
    failures: Sequence[gallery.FailureSet],
    diagnosis: doctor.Diagnosis | None,
) -> Content:
    """What is to be said of an evaluation; `grids` are names of `CAPTIONS`, the rest as there."""
    first = next(iter(metrics.values()))
    parameters = "averaged (EMA)" if config.eval.use_ema else "raw"
    return Content(
        title=f"Evaluation on {_describe_data(config)}",
        summary=f"Checkpoint of step {first.checkpoint_step:,} of {config.train.num_steps:,}, "
        f"{parameters} parameters, likelihood `{config.likelihood.name}`, "
        f"prior `{config.prior.name}`, latent {config.model.latent_shape}, training seed "
        f"{config.seed}, evaluation seed {first.seed}. Values are means over images with their "
        "standard error.",
        metrics=metric_table(metrics),
        remarks=_remarks(config),
        diagnosis=diagnosis,
        notes=notes,
        sample_tables=[*three_distances(metrics), *sample_tables(metrics)],
        captions={name: CAPTIONS[name] for name in grids},
        galleries=[gallery.describe(of_kind) for of_kind in failures],
        configuration=configuration.flatten(config),
    )


def _describe_data(config: ConfigDict) -> str:
    if config.data.name == "celeb_a":
        return (
            f"celeb_a, centre crop {config.data.crop} of 178x218, antialiased resize to "
            f"{config.data.image_size}"
        )
    return config.data.name


def _remarks(config: ConfigDict) -> list[str]:
    if config.likelihood.binarize:
        return [BINARY_IMAGES]
    return [GREY_AS_PROBABILITY] if config.likelihood.name == "bernoulli" else []


def format_value(metric: Metric) -> str:
    """'-234.56 ± 0.12 nats', '21 of 32', '24.10 dB'."""
    if isinstance(metric.value, int):
        return f"{metric.value} {metric.unit}".strip()
    digits = 3 if metric.unit == "bits" or abs(metric.value) < 2 else 2
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.{digits}f}"
    return f"{metric.value:.{digits}f}{error} {metric.unit}".strip()


def format_sample_value(metric: Metric | None) -> str:
    """'12.34 ± 0.56'; four digits, because a distance may be of any size."""
    if metric is None:
        return ""
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.2g}"
    return f"{metric.value:.4g}{error}"


def metric_table(metrics: Mapping[str, Metric]) -> Table:
    """One row per metric, sample metrics apart: value with error and unit, images, protocol."""
    rows = [
        (f"`{name}`", format_value(m), f"{m.num_images:,} {m.split}", m.protocol)
        for name, m in metrics.items()
        if "/" not in name
    ]
    return Table(("metric", "value", "images", "protocol"), rows)


def sample_rows(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Metric]]:
    """'samples_vs_test/fid_768' -> {'samples_vs_test': {'fid_768': ...}}."""
    rows: dict[str, dict[str, Metric]] = {}
    for name, metric in metrics.items():
        if "/" in name:
            pair, short = name.split("/")
            rows.setdefault(pair, {})[short] = metric
    return rows


def sample_tables(metrics: Mapping[str, Metric]) -> list[Table]:
    """One for each split and kind of features, with a row for each set of images."""
    rows = sample_rows(metrics)
    tables = []
    for split in sorted({pair.rpartition("_vs_")[2] for pair in rows}):
        suffix = f"_vs_{split}"
        of_split = {p.removesuffix(suffix): r for p, r in rows.items() if p.endswith(suffix)}
        names = list(dict.fromkeys(name for row in of_split.values() for name in row))
        tables += [_sample_table(split, family, of_split) for family in _families(names)]
    return tables


def _sample_table(
    split: str, family: Sequence[str], rows: Mapping[str, Mapping[str, Metric]]
) -> Table:
    """Of the metrics of a family, by set of images."""
    cells = [
        (
            f"`{label}`: {SETS[label]}",
            f"{max(metric.num_images for metric in row.values()):,}",
            *(format_sample_value(row.get(name)) for name in family),
        )
        for label, row in rows.items()
    ]
    protocols: dict[str, list[str]] = {}
    for name, metric in next(iter(rows.values())).items():
        if name in family:
            protocols.setdefault(metric.protocol, []).append(f"`{name}`")
    described = [f"{', '.join(names)}: {how}" for how, names in protocols.items()]
    titles = (f"against {split}", "images", *(f"`{name}`" for name in family))
    return Table(titles, cells, f"Of the first row: {'; '.join(described)}.")


def _families(names: list[str]) -> list[list[str]]:
    """Names of one table each: those with the same preprocessing and tap."""
    families: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        tap = name.rpartition("_")[2]
        key = (name.startswith("clean_"), tap if tap.isdigit() else "")
        families.setdefault(key, []).append(name)
    return list(families.values())


def three_distances(metrics: Mapping[str, Metric]) -> list[Table]:
    """Distances of reconstructions, decoded posterior and samples, and how to read them.

    The reading goes from the floor over the decoded aggregate posterior to samples: all three are
    independent of the test images. Reconstructions are not. Empty where a distance is missing.
    """
    rows = sample_rows(metrics)
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
    if not {label for _, *labels in DISTANCES for label in labels if label} <= distance.keys():
        return []
    cells = [
        (label, f"{distance[mean]:.4g}", f"{distance[drawn]:.4g}" if drawn else "")
        for label, mean, drawn in DISTANCES
    ]
    titles = (f"`{name}` against test", "means of p(x|z)", "drawn from p(x|z)")
    return [Table(titles, cells, _read_distances(distance))]


def _read_distances(distance: Mapping[str, float]) -> str:
    decoder = distance["aggregate_posterior_means"] - distance["train"]
    prior = distance["sample_means"] - distance["aggregate_posterior_means"]
    pixels = distance["reconstructions"] - distance["reconstruction_means"]
    return (
        f"Decoding the codes of real images costs {decoder:.4g} more than the floor, codes of the "
        f"prior {prior:.4g} more than that, drawing pixels instead of taking their mean "
        f"{pixels:.4g} (on reconstructions). {_suspect(decoder, prior, distance['sample_means'])} "
        "Reconstructions are of the very images that they are compared with, so they may lie below "
        "the floor."
    )


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
