"""Training: the loop (`loop`), its jitted step (`steps`), the start of a run (`start`), the log of
its metrics (`log`), its evaluations (`watch`), and the search for a batch size (`autotune`).
"""

from vae_jax.training.loop import train_and_evaluate
from vae_jax.training.watch import (
    EvaluateFn,
    TrainingDivergedError,
    check_not_diverged,
    is_out_of_patience,
)

__all__ = [
    "EvaluateFn",
    "TrainingDivergedError",
    "check_not_diverged",
    "is_out_of_patience",
    "train_and_evaluate",
]
