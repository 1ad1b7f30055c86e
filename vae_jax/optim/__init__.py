"""The optimiser chain, the moving average of the parameters, and schedules over steps."""

from vae_jax.optim.optimizer import OPTIMIZERS as OPTIMIZERS
from vae_jax.optim.optimizer import check_optimizer as check_optimizer
from vae_jax.optim.optimizer import create_optimizer as create_optimizer
from vae_jax.optim.optimizer import num_skipped as num_skipped
from vae_jax.optim.optimizer import update_ema as update_ema
