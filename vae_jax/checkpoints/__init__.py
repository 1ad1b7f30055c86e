"""The state of a training run (`state`), and its checkpoints on disk (`store`)."""

from vae_jax.checkpoints.state import TrainState, create_train_state
from vae_jax.checkpoints.store import (
    DAMAGED_DIRECTORY,
    DIRECTORY,
    METADATA_FILE,
    CheckpointNotSavedError,
    Checkpoints,
    CheckpointsDamagedError,
)

__all__ = [
    "DAMAGED_DIRECTORY",
    "DIRECTORY",
    "METADATA_FILE",
    "CheckpointNotSavedError",
    "Checkpoints",
    "CheckpointsDamagedError",
    "TrainState",
    "create_train_state",
]
