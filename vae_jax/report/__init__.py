"""The report of an evaluation, as Markdown and as one HTML page."""

from vae_jax.report.directory import GALLERY_FILE as GALLERY_FILE
from vae_jax.report.directory import HTML_FILE as HTML_FILE
from vae_jax.report.directory import METRICS_FILE as METRICS_FILE
from vae_jax.report.directory import REPORT_FILE as REPORT_FILE
from vae_jax.report.directory import check_replaceable as check_replaceable
from vae_jax.report.directory import recover as recover
from vae_jax.report.markdown import summarise as summarise
from vae_jax.report.markdown import write_evaluation as write_evaluation
