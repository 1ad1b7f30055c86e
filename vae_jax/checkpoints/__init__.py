"""The state of a training run (`state`), and its checkpoints on disk (`store`)."""

from vae_jax.checkpoints.state import TrainState as TrainState
from vae_jax.checkpoints.store import DAMAGED_DIRECTORY as DAMAGED_DIRECTORY
from vae_jax.checkpoints.store import DIRECTORY as DIRECTORY
from vae_jax.checkpoints.store import CheckpointNotSavedError as CheckpointNotSavedError
from vae_jax.checkpoints.store import Checkpoints as Checkpoints
from vae_jax.checkpoints.store import CheckpointsDamagedError as CheckpointsDamagedError
from vae_jax.checkpoints.validation import METADATA_FILE as METADATA_FILE
