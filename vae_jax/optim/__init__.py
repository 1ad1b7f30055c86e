"""The optimiser chain, the moving average of the parameters, and schedules over steps."""

from vae_jax.optim.optimizer import (
    OPTIMIZERS,
    check_optimizer,
    create_optimizer,
    num_skipped,
    update_ema,
)

__all__ = ["OPTIMIZERS", "check_optimizer", "create_optimizer", "num_skipped", "update_ema"]
