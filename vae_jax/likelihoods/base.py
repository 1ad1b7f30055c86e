"""What the likelihoods share."""

import jax


def soft_floor(value: jax.Array, floor: float) -> jax.Array:
    return floor + jax.nn.softplus(value - floor)
