"""The report of an evaluation, as Markdown and as one HTML page."""

from vae_jax.report.markdown import (
    GALLERY_FILE,
    HTML_FILE,
    METRICS_FILE,
    REPORT_FILE,
    is_evaluated,
    summarise,
    write_evaluation,
)

__all__ = [
    "GALLERY_FILE",
    "HTML_FILE",
    "METRICS_FILE",
    "REPORT_FILE",
    "is_evaluated",
    "summarise",
    "write_evaluation",
]
