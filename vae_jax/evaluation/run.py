"""The whole evaluation of a workdir, as evaluate.py does it, callable from Python."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from vae_jax import doctor, gallery, inference, report
from vae_jax.evaluation import sample_quality
from vae_jax.evaluation.model import evaluate
from vae_jax.inference.arguments import NotFiniteError
from vae_jax.metrics.metric import Metric
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.settings import standard_settings
from vae_jax.runtime.workdir import check_contents

NUM_FAILURES = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices of a user about an evaluation.

    Attributes:
      checkpoint: 'best' (by validation ELBO), 'latest', or a step.
      split: 'test', 'validation' or 'train'; sample metrics need 'test'.
      data_dir: where the images are now: their directory, or the one above; None: where they were
        in training.
      num_iw_images: overrides eval.num_iw_images; 0: the whole split.
      allow_other_images: whether the dataset may have other images than the run was trained on;
        the report then says so.
      num_failures: number of worst reconstructions and of worst samples to show; 0: no failure
        gallery.
      samples: choices about the sample metrics.
      output: directory of the results, new, empty or of an earlier evaluation; None:
        `evaluation_directory` in the workdir. With a directory elsewhere, nothing is written to
        the workdir.
    """

    checkpoint: str | int = "best"
    split: str = "test"
    data_dir: str | None = None
    num_iw_images: int | None = None
    allow_other_images: bool = False
    num_failures: int = NUM_FAILURES
    samples: sample_quality.Options = dataclasses.field(default_factory=sample_quality.Options)
    output: str | pathlib.Path | None = None

    def __post_init__(self) -> None:
        gallery.check_num_failures(self.num_failures)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation; the images and the report are in its directory.

    Attributes:
      directory: directory with metrics.json, report.md, report.html and images/.
      metrics: the metrics, by key.
      notes: sentences that say what is missing, why, and what to do about it.
      failures: the failure galleries.
      diagnosis: the doctor's diagnosis of the checkpoint.
    """

    directory: pathlib.Path
    metrics: dict[str, Metric]
    notes: Sequence[str]
    failures: Sequence[gallery.FailureSet]
    diagnosis: doctor.Diagnosis


def evaluation_directory(workdir: str | pathlib.Path, split: str) -> pathlib.Path:
    """Returns the directory in a workdir that receives the evaluation on a split."""
    return pathlib.Path(workdir) / ("eval" if split == "test" else f"eval_{split}")


def run(workdir: str | pathlib.Path, options: Options | None = None) -> Evaluation:
    """Evaluates a run, diagnoses it and writes the report.

    Args:
      workdir: directory of the run, written by train.py.
      options: choices about the evaluation; by default those of evaluate.py.

    Raises:
      UserError: there is no such run, checkpoint or dataset, or an option breaks a rule.
      OSError: the report cannot be written.
    """
    # GPUs would round float32 products to TensorFloat-32, but the bound must not depend on the
    # device.
    with standard_settings(), jax.default_matmul_precision("highest"):
        return _run(resolve_workdir(workdir, "workdir"), options or Options())


def _run(workdir: pathlib.Path, options: Options) -> Evaluation:
    check_contents(workdir)
    directory = evaluation_directory(workdir, options.split)
    if options.output is not None:
        directory = resolve_workdir(options.output, "--output")
    vae = inference.load(
        workdir,
        options.checkpoint,
        data_dir=options.data_dir,
        num_iw_images=options.num_iw_images,
        allow_other_images=options.allow_other_images,
    )
    run = vae.experiment
    report.recover(directory)
    report.check_replaceable(directory, is_chosen=options.output is not None)
    split = run.dataset.split(options.split)
    is_test = options.split == "test"
    weights, notes = sample_quality.find_weights(vae, options.samples) if is_test else (None, [])
    diagnosis = doctor.diagnose_run(run, workdir, vae, check_test_images=is_test)
    metrics, grids, missing = evaluate(vae, split)
    notes += missing
    if not vae.prior_is_exact:
        notes.append(
            "Missing: `iw_elbo`: with this prior log p(z) is itself only bounded, but the "
            "importance-weighted bound needs its exact value."
        )
    features = None
    if weights is not None:
        if not (directory / report.METRICS_FILE).exists():
            # Sample metrics take long on a CPU, and the results so far must not be lost.
            pending = [*notes, "The sample metrics were not finished when this was written."]
            report.write_evaluation(directory, run, metrics, grids, pending, workdir=workdir)
        samples = sample_quality.evaluate(vae, options.samples, weights)
        metrics |= samples.metrics
        grids |= samples.grids
        notes += samples.notes
        features = samples.features
    try:
        failures = gallery.create(vae, split, options.num_failures, features)
        notes += gallery.missing(vae) if options.num_failures else []
    except NotFiniteError as error:  # the other results are still worth a report
        failures = []
        notes.append(f"Missing: the failure gallery: {error}")
    report.write_evaluation(directory, run, metrics, grids, notes, failures, diagnosis, workdir)
    return Evaluation(directory, metrics, notes, failures, diagnosis)
