"""All findings of a run at one step, with the figure that shows their numbers."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from vae_jax import files
from vae_jax.data import Split
from vae_jax.doctor import curves, model
from vae_jax.doctor.examination import MIN_NUM_IMAGES, Examination, NonFiniteModelError, examine
from vae_jax.doctor.findings import Finding, sort_findings, to_markdown
from vae_jax.errors import UserError
from vae_jax.experiment import Experiment
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.latents import ACTIVE_VARIANCE
from vae_jax.recording import figures
from vae_jax.recording.figures import Panel

REPORT_FILE, FIGURE_FILE = "diagnosis.md", "diagnosis.png"
TITLE = "# Diagnosis at step "


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The findings of a run at one step.

    Attributes:
      step: step of the checkpoint; without a checkpoint, the last recorded step.
      findings: the most severe first.
      panels: panels of the figure.
    """

    step: int
    findings: list[Finding]
    panels: list[Panel]

    @property
    def is_severe(self) -> bool:
        return any(finding.is_severe for finding in self.findings)

    def __str__(self) -> str:
        """Returns one line for each finding."""
        return "\n".join(map(str, self.findings)) or "no problems were found"

    def to_markdown(self) -> list[str]:
        """Returns Markdown lines, without a title."""
        return to_markdown(self.findings)

    def write(self, directory: pathlib.Path) -> None:
        """Writes diagnosis.md and diagnosis.png."""
        figures.save_panels(directory / FIGURE_FILE, self.panels)
        title = f"{TITLE}{self.step:,}"
        lines = [title, "", *self.to_markdown(), f"![diagnosis]({FIGURE_FILE})", ""]
        files.write_text(directory / REPORT_FILE, "\n".join(lines))


def is_diagnosis(path: pathlib.Path) -> bool:
    """Returns whether a file is a diagnosis.md that was written here."""
    try:
        return files.read_text(path).startswith(TITLE)
    except UserError:
        return False


def diagnose(
    run: Experiment,
    records: Sequence[dict[str, float]],
    train: Split,
    validation: Split,
    vae: TrainedVAE | None = None,
    image_findings: Sequence[Finding] = (),
) -> Diagnosis:
    """Examines a checkpoint and derives findings from everything that is known about the run.

    Args:
      run: experiment of the run.
      records: training records, as read from metrics.jsonl.
      train, validation: splits of the run.
      vae: model at the checkpoint, with the parameters that are evaluated; None: the findings come
        from the records alone.
      image_findings: findings about the dataset, from `images.diagnose_images`.
    """
    step = max((r["step"] for r in records), default=0) if vae is None else vae.step
    findings = [*image_findings, *_apply(curves.RULES, run, records)]
    panels = _record_panels(records)
    if vae is not None and min(len(train), len(validation)) < MIN_NUM_IMAGES:
        findings.append(_few_images(train, validation))
    elif vae is not None:
        try:
            examination = examine(vae, train, validation)
        except NonFiniteModelError as error:
            findings.append(_non_finite_model(run, error))
        else:
            findings += _apply(model.RULES, run, examination)
            panels += _examination_panels(examination)
    shown = {panel.title for panel in panels}  # a non-finite model leaves some out
    findings = [f if f.panel in shown else dataclasses.replace(f, panel="") for f in findings]
    return Diagnosis(int(step), sort_findings(findings), panels)


def _apply(rules: Sequence[Callable[..., Finding | None]], *arguments: object) -> list[Finding]:
    return [finding for rule in rules if (finding := rule(*arguments)) is not None]


def _few_images(train: Split, validation: Split) -> Finding:
    return Finding(
        name="too_few_images",
        severity="note",
        evidence=f"{len(train)} training images and {len(validation)} validation images.",
        threshold=f"at least {MIN_NUM_IMAGES} of each",
        meaning="The model was not examined: measurements on so few images say little.",
        remedy="more images"
        if len(train) < MIN_NUM_IMAGES
        else "a larger --config.data.validation_size (in a new --workdir)",
    )


def _non_finite_model(run: Experiment, error: NonFiniteModelError) -> Finding:
    return Finding(
        name="non_finite_model",
        severity="severe",
        evidence=f"{error}.",
        threshold="the ELBO of every image and all decoder outputs must be finite",
        meaning="Some parameters are not finite, or so large that their products overflow.",
        remedy=f"--config.optim.learning_rate={0.1 * run.config['optim.learning_rate']:.1g} (in a "
        "new --workdir), or an earlier checkpoint",
    )


def _record_panels(records: Sequence[dict[str, float]]) -> list[Panel]:
    def line(name: str) -> tuple[np.ndarray, np.ndarray]:
        steps, values = curves.series(records, name)
        finite = np.isfinite(values)
        return steps[finite], values[finite]

    steps, updates = curves.series(records, "train/update_norm")
    _, params = curves.series(records, "train/param_norm")
    with np.errstate(invalid="ignore"):  # norms that overflowed
        ratios = updates / params
    return [
        Panel(
            "ELBO",
            "step",
            {name: line(name) for name in ("train/elbo", "validation/elbo")},
            settled=True,
        ),
        Panel(
            "gradient norm",
            "step",
            {"mean": line("train/grad_norm"), "largest": line("train/grad_norm_max")},
            log_y=True,
        ),
        Panel(
            "update-to-parameter ratio",
            "step",
            {"update norm / parameter norm": (steps, ratios)},
            thresholds={"too high": curves.UPDATE_RATIO_HIGH, "too low": curves.UPDATE_RATIO_LOW},
            log_y=True,
        ),
    ]


def _examination_panels(e: Examination) -> list[Panel]:
    order = np.argsort(-e.rate_per_dim)
    dims = np.arange(len(order))
    nearest = np.concatenate([e.train_distances, e.validation_distances])
    edges = np.histogram_bin_edges(nearest, bins=30)
    centres = 0.5 * (edges[:-1] + edges[1:])
    counts = {
        f"to {n:,} {name} images": (centres, np.histogram(d, edges)[0])
        for name, n, d in (
            ("training", e.num_train, e.train_distances),
            ("held-out", e.num_validation, e.validation_distances),
        )
    }
    cycles = np.arange(1, len(e.data_power))
    measured = (np.array([e.mmd, e.mmd]), np.array([0, 50]))  # a vertical line
    return [
        Panel(
            "rate per dimension",
            "dimension, highest rate first",
            {
                "rate (nats)": (dims, e.rate_per_dim[order]),
                "variance of E[z|x]": (dims, e.code_variance[order]),
            },
            thresholds={"active": ACTIVE_VARIANCE},
            log_y=True,
        ),
        Panel(
            "aggregate posterior",
            "dimension, highest rate first",
            {
                "mean": (dims, e.aggregate_mean[order]),
                "variance": (dims, e.aggregate_variance[order]),
                "mean of the prior": (dims, e.prior_mean[order]),
                "variance of the prior": (dims, e.prior_variance[order]),
            },
        ),
        Panel(
            "power spectrum",
            "cycles per image",
            {
                "data": (cycles, e.data_power[1:]),
                "reconstructions": (cycles, e.reconstruction_power[1:]),
            },
            log_y=True,
        ),
        Panel("nearest images", "distance of samples, RMS over pixels", counts),
        Panel(
            "discrepancy of codes and prior",
            "MMD^2",
            {"relabelled": _histogram(e.mmd_null), "measured": measured},
        ),
    ]


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (bin centres, counts)."""
    counts, edges = np.histogram(values, bins=30)
    return 0.5 * (edges[:-1] + edges[1:]), counts
