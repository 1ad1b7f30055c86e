"""A gallery of failures: the worst reconstructions and samples, each with a measured hypothesis."""

from vae_jax.gallery.failures import FailureSet, check_num_failures, create
from vae_jax.gallery.picture import draw
from vae_jax.gallery.text import HOW_TO_READ, TITLE, Section, describe, markdown, to_json

__all__ = [
    "HOW_TO_READ",
    "TITLE",
    "FailureSet",
    "Section",
    "check_num_failures",
    "create",
    "describe",
    "draw",
    "markdown",
    "to_json",
]
