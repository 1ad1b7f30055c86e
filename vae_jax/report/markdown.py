"""Writes an evaluation: metrics.json, gallery.json, images/, report.md and report.html."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from vae_jax import doctor, gallery
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

METRICS_FILE = "metrics.json"
GALLERY_FILE = "gallery.json"
REPORT_FILE = "report.md"
HTML_FILE = "report.html"


def summarise(directory: pathlib.Path) -> str:
    """Returns the numbers of an evaluation and the paths of its files, for a terminal.

    Raises:
      NotFoundError: the directory has no evaluation.
      InputError: its metrics have an unknown version.
    """
    path = directory / METRICS_FILE
    if not path.exists():
        raise NotFoundError(f"{path} is missing: run evaluate.py --workdir={directory.parent}.")
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
    pictures = [directory.parent / CURVES_FILE, *sorted((directory / "images").glob("*.png"))]
    return "\n".join(
        [
            f"{directory.parent}: {first.image_set} split, "
            f"checkpoint at step {first.checkpoint_step}",
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
) -> None:
    """Writes images/*.png, gallery.json, diagnosis.*, report.* and, last, metrics.json.

    Args:
      directory: directory of the evaluation, created if missing.
      run: experiment of the run.
      metrics: metrics by key.
      grids: pictures by name, uint8 [H, W, 3].
      notes: what is missing, and why.
      failures: the failures of each gallery.
      diagnosis: diagnosis of the checkpoint, if it was examined.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, grid in grids.items():
        figures.save_image(directory / "images" / f"{name}.png", grid)
    for failure_set in failures:
        path = directory / "images" / f"{failure_set.ranking.name}.png"
        figures.save_image(path, gallery.draw(failure_set))
    if diagnosis is not None:
        diagnosis.write(directory)
    content = create_content(run, metrics, grids, notes, failures, diagnosis)
    (directory / REPORT_FILE).write_text(_to_markdown(content))
    (directory / HTML_FILE).write_text(html_report.render(content, directory), encoding="utf-8")
    galleries = [gallery.to_json(failure_set) for failure_set in failures]
    (directory / GALLERY_FILE).write_text(json.dumps(galleries, indent=2) + "\n")
    stored.write(directory / METRICS_FILE, metrics)


def _to_markdown(content: Content) -> str:
    lines = [f"# {content.title}", "", content.summary, "", *content.metrics.to_markdown()]
    for remark in content.remarks:
        lines += [remark, ""]
    if content.diagnosis is not None:
        lines += ["## Diagnosis", "", *content.diagnosis.to_markdown()]
        lines += [f"![diagnosis]({doctor.FIGURE_FILE})", ""]
    if content.notes or content.sample_tables:
        lines += ["## Sample quality", ""]
        for note in content.notes:
            lines += [note, ""]
        for table in content.sample_tables:
            lines += table.to_markdown()
    lines += ["## Pictures", "", f"![training curves](../{CURVES_FILE})", ""]
    for name, caption in content.captions.items():
        lines += [f"{caption}:", "", f"![{name}](images/{name}.png)", ""]
    lines += gallery.markdown(content.galleries)
    lines += ["## Configuration", "", "```"]
    lines += [f"{key} = {value}" for key, value in content.configuration.items()]
    return "\n".join([*lines, "```", ""])
