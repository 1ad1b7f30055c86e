"""What is trained: a whole VAE (`VAETask`), or a prior on a frozen VAE (`PriorTask`)."""

from vae_jax.tasks.base import LoadVAE, Loss, Rows, Task, readers
from vae_jax.tasks.batch import Batch, split_batch, to_unit_interval
from vae_jax.tasks.prior import PriorTask
from vae_jax.tasks.vae import VAETask

__all__ = [
    "Batch",
    "LoadVAE",
    "Loss",
    "PriorTask",
    "Rows",
    "Task",
    "VAETask",
    "readers",
    "split_batch",
    "to_unit_interval",
]
