"""The evaluation of a trained VAE: numbers with their protocol, and grids to look at."""

from vae_jax.evaluation.bounds import evaluate_bounds
from vae_jax.evaluation.model import evaluate, validate
from vae_jax.evaluation.run import NUM_FAILURES, Evaluation, Options, directory_of, run

__all__ = [
    "NUM_FAILURES",
    "Evaluation",
    "Options",
    "directory_of",
    "evaluate",
    "evaluate_bounds",
    "run",
    "validate",
]
