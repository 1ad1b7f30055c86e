"""The lower bound that the likelihoods set on their log-scales."""

import jax


def soft_floor(value: jax.Array, floor: float) -> jax.Array:
    """Returns `floor` + softplus(`value` - `floor`), which is always above `floor`.

    Without a floor, constant regions (the black background of Fashion-MNIST) would drive a scale to
    zero and its density to infinity. This floor is approached smoothly, so that the gradient never
    vanishes.
    """
    return floor + jax.nn.softplus(value - floor)
