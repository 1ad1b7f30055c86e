"""The state of a training run, and its checkpoints on disk. No other room imports orbax."""

from vae_jax.checkpoints.reading import DAMAGED_DIRECTORY as DAMAGED_DIRECTORY
from vae_jax.checkpoints.reading import DIRECTORY as DIRECTORY
from vae_jax.checkpoints.reading import CheckpointReader as CheckpointReader
from vae_jax.checkpoints.reading import CheckpointsDamagedError as CheckpointsDamagedError
from vae_jax.checkpoints.state import TrainState as TrainState
from vae_jax.checkpoints.store import CheckpointNotSavedError as CheckpointNotSavedError
from vae_jax.checkpoints.store import Checkpoints as Checkpoints
from vae_jax.checkpoints.validation import METADATA_FILE as METADATA_FILE
