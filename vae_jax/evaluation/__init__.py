"""The evaluation of a trained VAE: metrics with their protocols, and grids of images.

`run` is the whole evaluation of a workdir, `model` the part that needs only the model: bounds
(`bounds`), latents and reconstructions (`codes`) and grids of images (`grids`). `sample_quality`
compares samples with real images.
"""

from vae_jax.evaluation.bounds import evaluate_bounds as evaluate_bounds
from vae_jax.evaluation.model import evaluate as evaluate
from vae_jax.evaluation.model import validate as validate
from vae_jax.evaluation.run import NUM_FAILURES as NUM_FAILURES
from vae_jax.evaluation.run import Evaluation as Evaluation
from vae_jax.evaluation.run import Options as Options
from vae_jax.evaluation.run import evaluation_directory as evaluation_directory
from vae_jax.evaluation.run import run as run
