"""Writes an evaluation: metrics.json, gallery.json, images/, report.md and report.html."""

import logging
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np

from vae_jax import doctor, files, gallery
from vae_jax.errors import NotFoundError
from vae_jax.experiment import Experiment
from vae_jax.metrics import stored
from vae_jax.metrics.metric import Metric
from vae_jax.recording import figures
from vae_jax.report import html as html_report
from vae_jax.report.content import (
    CURVES_FILE,
    Content,
    create_content,
    format_sample_value,
    format_value,
)
from vae_jax.report.directory import (
    GALLERY_FILE,
    HTML_FILE,
    IMAGES,
    METRICS_FILE,
    REPORT_FILE,
    recover,
    replaced,
)

LOGGER = logging.getLogger(__name__)


def summarise(directory: pathlib.Path, workdir: pathlib.Path | None = None) -> str:
    """Returns the numbers of an evaluation and the paths of its files, for a terminal.

    Args:
      directory: directory of the evaluation.
      workdir: directory of the run; None: the one above.

    Raises:
      NotFoundError: the directory has no evaluation.
      InputError: its metrics have an unknown version.
    """
    workdir = workdir or directory.parent
    recover(directory)
    path = directory / METRICS_FILE
    if not path.exists():
        raise NotFoundError(f"{path} is missing: run evaluate.py --workdir={workdir}.")
    metrics = stored.read(path)
    first = next(iter(metrics.values()))
    plain = [m for m in metrics.values() if m.pair is None]
    pairs: dict[str, list[str]] = {}
    for m in metrics.values():
        if m.pair is not None:
            pairs.setdefault(m.pair, []).append(f"{m.label} {format_sample_value(m)}")
    width = max(map(len, [*(m.label for m in plain), *pairs]))
    rows = [f"  {m.label:<{width}}  {format_value(m):<24}  {m.num_images:,} images" for m in plain]
    rows += [f"  {pair:<{width}}  {'  '.join(values)}" for pair, values in pairs.items()]
    # Evaluations of earlier versions lack some of these.
    others = [directory / n for n in (HTML_FILE, GALLERY_FILE) if (directory / n).exists()]
    pictures = [workdir / CURVES_FILE, *sorted((directory / IMAGES).glob("*.png"))]
    return "\n".join(
        [
            f"{workdir}: {first.image_set} split, checkpoint at step {first.checkpoint_step}",
            *rows,
            "Written:",
            *(f"  {p}" for p in (directory / REPORT_FILE, path, *others, *pictures)),
        ]
    )


def write_evaluation(
    directory: pathlib.Path,
    run: Experiment,
    metrics: Mapping[str, Metric],
    grids: Mapping[str, np.ndarray],
    notes: Sequence[str] = (),
    failures: Sequence[gallery.FailureSet] = (),
    diagnosis: doctor.Diagnosis | None = None,
    workdir: pathlib.Path | None = None,
) -> None:
    """Writes metrics.json, gallery.json, images/*.png, diagnosis.* and report.* in one step.

    If anything but the metrics cannot be written, what there is replaces the old evaluation all the
    same, and the error is raised afterwards.

    Args:
      directory: directory of the evaluation, created if missing. Everything that an evaluation
        writes is replaced; other files stay.
      run: experiment of the run.
      metrics: metrics by key.
      grids: pictures by name, uint8 [H, W, 3].
      notes: what is missing, and why.
      failures: the failures of each gallery.
      diagnosis: diagnosis of the checkpoint, if it was examined.
      workdir: directory of the run, with the training curves; None: the one above `directory`.
    """
    curves = (workdir or directory.parent) / CURVES_FILE
    problem: Exception | None = None
    with replaced(directory) as new:
        stored.write(new / METRICS_FILE, metrics)
        try:
            files.write_json(new / GALLERY_FILE, [gallery.to_json(f) for f in failures])
            _write_pictures(new, grids, failures, diagnosis)
            content = create_content(run, metrics, grids, notes, failures, diagnosis)
            link = urllib.parse.quote(os.path.relpath(curves, directory))
            files.write_text(new / REPORT_FILE, _to_markdown(content, link))
            files.write_text(new / HTML_FILE, html_report.render(content, new, curves))
        except Exception as error:
            problem = error
    if problem is not None:
        LOGGER.error("The metrics are in %s, but the report failed.", directory / METRICS_FILE)
        raise problem


def _write_pictures(
    directory: pathlib.Path,
    grids: Mapping[str, np.ndarray],
    failures: Sequence[gallery.FailureSet],
    diagnosis: doctor.Diagnosis | None,
) -> None:
    for name, grid in grids.items():
        figures.save_image(directory / IMAGES / f"{name}.png", grid)
    for failure_set in failures:
        path = directory / IMAGES / f"{failure_set.ranking.name}.png"
        figures.save_image(path, gallery.draw(failure_set))
    if diagnosis is not None:
        diagnosis.write(directory)


def _to_markdown(content: Content, curves: str) -> str:
    """Renders the report; `curves` is the link to the training curves."""
    lines = [f"# {content.title}", "", content.summary, "", *content.metrics.to_markdown()]
    for remark in content.remarks:
        lines += [remark, ""]
    if content.diagnosis is not None:
        lines += ["## Diagnosis", "", *content.diagnosis.to_markdown()]
        lines += [f"![diagnosis]({doctor.FIGURE_FILE})", ""]
    if content.notes:
        lines += ["## Missing results", ""]
        for note in content.notes:
            lines += [note, ""]
    if content.sample_tables:
        lines += ["## Sample quality", ""]
        for table in content.sample_tables:
            lines += table.to_markdown()
    lines += ["## Pictures", "", f"![training curves]({curves})", ""]
    for name, caption in content.captions.items():
        lines += [f"{caption}:", "", f"![{name}](images/{name}.png)", ""]
    lines += gallery.markdown(content.galleries)
    lines += ["## Configuration", "", "```"]
    lines += [f"{key} = {value}" for key, value in content.configuration.items()]
    return "\n".join([*lines, "```", ""])
