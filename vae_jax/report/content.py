"""The sentences and tables of a report as data, independent of its format."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from vae_jax import doctor, gallery
from vae_jax.experiment import Experiment
from vae_jax.inference.image_sets import SETS
from vae_jax.metrics.metric import FID_TAP, Metric
from vae_jax.recording.tables import Table

CURVES_FILE = "curves.png"  # in the workdir
CAPTIONS = {
    "reconstructions": "Images, each with its reconstruction below (mean of p(x|z) at E[z|x])",
    "samples": "Samples from the prior (mean of p(x|z))",
    "samples_drawn": "The same samples, drawn from p(x|z)",
    "samples_tempered": "Samples from the prior at prior.temperature, which is a different model "
    "(mean of p(x|z))",
    "nearest_neighbours": "Samples, each with the nearest training image below, by squared error "
    "among at most 10,000 images (and their mirror images, if training uses them)",
    "aggregate_posterior": "Decoded draws z ~ q(z|x) of random training images (mean of p(x|z)); "
    "if these look better than the samples, the prior is to blame",
    "interpolations": "Straight lines between the codes of two images (first and last column)",
    "interpolations_of_noise": "Interpolation along the prior between draws z ~ q(z|x) of two "
    "images: the prior maps both draws to noise, and the path is the arc between these noises",
    "principal_directions": "Latent arithmetic: principal directions of the aggregate posterior "
    "are added to the codes of two images, from -3 to 3 standard deviations. Each direction has "
    "two rows; the direction of largest variance comes first",
    "traversals": "Traversals of one latent dimension per row, from -3 to 3, highest rate first",
}
GREY_AS_PROBABILITY = (
    "The Bernoulli likelihood takes grey values as probabilities. Its ELBO bounds the expected "
    "log-probability of binarised images, so no bits per dimension are reported."
)
BINARY_IMAGES = (
    "This is a model of binary images, in which the grey value of a pixel is the probability that "
    "it is 1. Training draws the binary images anew at each step; this evaluation draws them once, "
    "from the evaluation seed. PSNR, SSIM and the sample metrics compare with the grey images, so "
    "samples drawn from p(x|z), which are black and white, are far from them."
)
DISTANCES = (  # rows: label, set of means, set of draws
    ("real training images (floor)", "train", None),
    ("reconstructions", "reconstruction_means", "reconstructions"),
    ("decoded aggregate posterior", "aggregate_posterior_means", "aggregate_posterior_samples"),
    ("samples of the prior", "sample_means", "samples"),
)


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything that a report says. In its texts, `backticks` mark code.

    Attributes:
      title, summary: what was evaluated, and how.
      metrics: table of the bounds and the metrics of codes and reconstructions.
      remarks: how to read these metrics.
      diagnosis: diagnosis of the checkpoint, if it was examined.
      notes: what is missing, and why.
      sample_tables: the three distances with their interpretation, then all sample metrics.
      captions: captions of images/NAME.png, by name.
      galleries: galleries of failures.
      configuration: run configuration, by dotted key.
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
    run: Experiment,
    metrics: Mapping[str, Metric],
    grids: Iterable[str],
    notes: Sequence[str],
    failures: Sequence[gallery.FailureSet],
    diagnosis: doctor.Diagnosis | None,
) -> Content:
    """Creates the content of a report from the arguments of `markdown.write_evaluation`.

    Of the grids it needs only the names, keys of `CAPTIONS`.
    """
    first = next(iter(metrics.values()))
    difference = run.dataset.difference()
    warning = f"OTHER IMAGES: {difference} " if difference else ""
    parameters = "averaged (EMA)" if run.evaluation.use_ema else "raw"
    return Content(
        title=f"Evaluation on {run.dataset.describe()}",
        summary=f"{warning}Checkpoint at step {first.checkpoint_step:,} of "
        f"{run.training.num_steps:,}, {parameters} parameters, "
        f"likelihood `{run.config['likelihood.name']}`, prior `{run.config['prior.name']}`, latent "
        f"shape {run.model.latent_shape}, training seed {run.training.seed}, evaluation seed "
        f"{first.seed}. Values are means over images ± their standard errors.",
        metrics=metric_table(metrics),
        remarks=_remarks(run),
        diagnosis=diagnosis,
        notes=notes,
        sample_tables=[*three_distances(metrics), *sample_tables(metrics)],
        captions={name: CAPTIONS[name] for name in grids},
        galleries=[gallery.describe(failure_set) for failure_set in failures],
        configuration=run.config,
    )


def _remarks(run: Experiment) -> list[str]:
    if run.likelihood.binarize:
        return [BINARY_IMAGES]
    return [GREY_AS_PROBABILITY] if run.likelihood.grey_is_probability else []


def format_value(metric: Metric) -> str:
    """Formats a metric with its unit: '-234.56 ± 0.12 nats', '21 of 32', '24.10 dB'."""
    if isinstance(metric.value, int):
        return f"{metric.value} {metric.unit}".strip()
    digits = 3 if metric.unit == "bits" or abs(metric.value) < 2 else 2
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.{digits}f}"
    return f"{metric.value:.{digits}f}{error} {metric.unit}".strip()


def format_sample_value(metric: Metric | None) -> str:
    """Formats a sample metric with four digits, because a distance may have any size."""
    if metric is None:
        return ""
    error = "" if metric.standard_error is None else f" ± {metric.standard_error:.2g}"
    return f"{metric.value:.4g}{error}"


def metric_table(metrics: Mapping[str, Metric]) -> Table:
    """Returns one row per metric, without sample metrics: value, error, unit, images, protocol."""
    rows = [
        (f"`{m.label}`", format_value(m), f"{m.num_images:,} {m.image_set}", m.description)
        for m in metrics.values()
        if m.pair is None
    ]
    return Table(("metric", "value", "images", "protocol"), rows)


def sample_tables(metrics: Mapping[str, Metric]) -> list[Table]:
    """Returns one table per split and kind of features, with one row per set of images."""
    tables = []
    for split in sorted({m.reference_split for m in metrics.values() if m.reference_split}):
        families: dict[tuple[str | None, int], list[Metric]] = {}
        for m in metrics.values():
            if m.reference_split == split:
                # The Inception score has no features of its own: it stands beside FID.
                families.setdefault((m.preprocessing, m.tap or FID_TAP), []).append(m)
        tables += [_sample_table(split, family) for family in families.values()]
    return tables


def _sample_table(split: str, family: Sequence[Metric]) -> Table:
    """Returns the table of a family of metrics, with one row per set of images."""
    labels = dict.fromkeys(metric.label for metric in family)
    rows: dict[str, dict[str, Metric]] = {}
    for metric in family:
        rows.setdefault(metric.image_set, {})[metric.label] = metric
    cells = [
        (
            f"`{image_set}`: {SETS[image_set]}",
            f"{max(metric.num_images for metric in row.values()):,}",
            *(format_sample_value(row.get(label)) for label in labels),
        )
        for image_set, row in rows.items()
    ]
    protocols: dict[str, list[str]] = {}
    for label, metric in next(iter(rows.values())).items():
        protocols.setdefault(metric.description, []).append(f"`{label}`")
    described = [f"{', '.join(names)}: {how}" for how, names in protocols.items()]
    titles = (f"against {split}", "images", *(f"`{label}`" for label in labels))
    return Table(titles, cells, f"Protocol of the first row: {'; '.join(described)}.")


def three_distances(metrics: Mapping[str, Metric]) -> list[Table]:
    """Returns the distances of reconstructions, decoded posterior and samples, with a reading.

    The reading goes from the floor to the decoded aggregate posterior and on to samples, which are
    all independent of the test images. Reconstructions are not.

    Returns:
      One table, or an empty list if a distance is missing or biased.
    """
    to_test = [m for m in metrics.values() if m.name == "fid" and m.reference_split == "test"]
    sound = [m for m in to_test if not m.is_biased]
    name = next((m.label for m in sound if m.image_set == "samples"), None)
    distance = {m.image_set: m.value for m in sound if m.label == name}
    if not {label for _, *labels in DISTANCES for label in labels if label} <= distance.keys():
        return []
    cells = [
        (label, f"{distance[mean]:.4g}", f"{distance[drawn]:.4g}" if drawn else "")
        for label, mean, drawn in DISTANCES
    ]
    titles = (f"`{name}` against test", "means of p(x|z)", "drawn from p(x|z)")
    return [Table(titles, cells, _read_distances(distance))]


def _read_distances(distance: Mapping[str, float]) -> str:
    """Says what each step from the floor to the samples adds to the distance."""
    decoder = distance["aggregate_posterior_means"] - distance["train"]
    prior = distance["sample_means"] - distance["aggregate_posterior_means"]
    pixels = distance["reconstructions"] - distance["reconstruction_means"]
    return (
        f"Decoding the codes of real images adds {decoder:.4g} to the floor. Taking the codes from "
        f"the prior adds another {prior:.4g}. Drawing pixels instead of taking their mean adds "
        f"{pixels:.4g} (measured on reconstructions). "
        f"{_suspect(decoder, prior, distance['sample_means'])} Reconstructions are compared with "
        "the very images that they reconstruct, so their distance may be below the floor."
    )


def _suspect(decoder: float, prior: float, total: float) -> str:
    """Says what the larger of the two additions suggests, if it is a tenth of the total."""
    if max(decoder, prior) < 0.1 * total:
        return "Neither of the first two additions stands out."
    if prior > decoder:
        return (
            "The prior adds more than decoding, which suggests a prior hole: the prior has mass "
            "where no image has its code."
        )
    return (
        "Decoding adds more than the prior, so the likely cause is the decoder, the size of the "
        "latent code or the likelihood."
    )
