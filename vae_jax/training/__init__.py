"""The training loop and what it is made of."""

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
