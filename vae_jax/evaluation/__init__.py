"""The evaluation of a trained VAE: metrics with their protocols, and grids of images.

`run` is the whole evaluation of a workdir, `model` the part that needs only the model: bounds
(`bounds`), latents and reconstructions (`codes`) and grids of images (`grids`). `sample_quality`
compares samples with real images.
"""

from vae_jax.evaluation.bounds import evaluate_bounds
from vae_jax.evaluation.model import evaluate, validate
from vae_jax.evaluation.run import NUM_FAILURES, Evaluation, Options, evaluation_directory, run

__all__ = [
    "NUM_FAILURES",
    "Evaluation",
    "Options",
    "evaluate",
    "evaluate_bounds",
    "evaluation_directory",
    "run",
    "validate",
]
