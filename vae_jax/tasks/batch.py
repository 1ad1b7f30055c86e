"""The batch of a training step: its images, their labels, and its random numbers."""

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax.typing import Array, PyTree


@flax.struct.dataclass
class Batch:
    """The inputs of a loss in addition to the parameters.

    Attributes:
      x: images that the model sees, float32 [B, H, W, C] in [0, 1]; None if there is `posterior`.
      posterior: q(z | x) of these images if it was computed before training, otherwise None.
      label: uint8 [B]; None if the dataset has no labels.
      noise: N(0, I) noise of the draws from the posterior, [B, *latent_shape].
      prior_key: random key of what the prior draws for its loss.
    """

    x: jax.Array | None
    posterior: PyTree
    label: jax.Array | None
    noise: PyTree
    prior_key: jax.Array


def split_batch(batch: Batch, num_parts: int) -> Batch:
    """Splits a batch into parts of equal size, along a new first axis of each attribute.

    Part i has every num_parts-th image, so that each device keeps the images it has.
    """

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1)

    parts = jnp.arange(num_parts)
    prior_keys = jax.vmap(lambda i: jax.random.fold_in(batch.prior_key, i))(parts)
    x, posterior, label, noise = jax.tree.map(
        split, (batch.x, batch.posterior, batch.label, batch.noise)
    )
    return Batch(x, posterior, label, noise, prior_keys)


def to_unit_interval(images: Array) -> jax.Array:
    """Maps uint8 images to float32 in [0, 1]; floating-point images only become float32."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images.astype(jnp.float32) / 255.0)
    return jnp.asarray(images.astype(jnp.float32))


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def choose_flipped(key: jax.Array, posterior: PyTree) -> PyTree:
    """Selects the posteriors of the images that `random_flip` would give.

    Args:
      key: the key that `random_flip` would get.
      posterior: q(z | x) of the images and of their mirror images, [B, 2, *latent_shape]; or of the
        images alone, [B, 1, *latent_shape], which leaves no choice.

    Returns:
      q(z | random_flip(key, x)), [B, *latent_shape].
    """
    num_images, num_variants = jax.tree.leaves(posterior)[0].shape[:2]
    flip = jax.random.bernoulli(key, shape=(num_images, 1, 1, 1)).reshape(-1)
    variant = jnp.where(flip, num_variants - 1, 0)
    return jax.tree.map(lambda a: a[jnp.arange(num_images), variant], posterior)
