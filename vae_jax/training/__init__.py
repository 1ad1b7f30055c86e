"""Training: the loop (`loop`), its jitted step (`steps`), priors on a frozen VAE (`frozen_vae`),
and the search for a batch size (`autotune`).
"""

from vae_jax.training.loop import (
    EvaluateFn,
    TrainingDivergedError,
    check_not_diverged,
    is_out_of_patience,
    train_and_evaluate,
)

__all__ = [
    "EvaluateFn",
    "TrainingDivergedError",
    "check_not_diverged",
    "is_out_of_patience",
    "train_and_evaluate",
]
