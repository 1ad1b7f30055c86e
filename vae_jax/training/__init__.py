"""Training: a whole run (`run`), its loop (`loop`) and jitted step (`steps`), the start of a run
(`start`), the log of its metrics (`log`), its evaluations (`watch`), and the search for a batch
size (`autotune`).
"""

from vae_jax.training.run import train_and_evaluate as train_and_evaluate
from vae_jax.training.watch import TrainingDivergedError as TrainingDivergedError
