"""The report of an evaluation, as Markdown and as one HTML page."""

from vae_jax.report.markdown import GALLERY_FILE as GALLERY_FILE
from vae_jax.report.markdown import HTML_FILE as HTML_FILE
from vae_jax.report.markdown import METRICS_FILE as METRICS_FILE
from vae_jax.report.markdown import REPORT_FILE as REPORT_FILE
from vae_jax.report.markdown import summarise as summarise
from vae_jax.report.markdown import write_evaluation as write_evaluation
