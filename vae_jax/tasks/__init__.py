"""What is trained: a whole VAE (`VAETask`), or a prior on a frozen VAE (`PriorTask`)."""

from vae_jax.tasks.base import Rows as Rows
from vae_jax.tasks.base import Task as Task
from vae_jax.tasks.base import readers as readers
from vae_jax.tasks.batch import Batch as Batch
from vae_jax.tasks.batch import split_batch as split_batch
from vae_jax.tasks.batch import to_unit_interval as to_unit_interval
from vae_jax.tasks.prior import PriorTask as PriorTask
from vae_jax.tasks.vae import VAETask as VAETask
