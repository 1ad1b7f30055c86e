"""Loss functions of training: from a batch of images, or their posteriors, to a scalar."""

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax import objectives
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.typing import Array, PyTree


def to_unit_interval(images: Array) -> jax.Array:
    """Maps uint8 images to float32 in [0, 1]; floating-point images only become float32."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images.astype(jnp.float32) / 255.0)
    return jnp.asarray(images.astype(jnp.float32))


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def choose_flipped(key: jax.Array, posterior: DiagonalGaussian) -> DiagonalGaussian:
    """Selects the posteriors of the images that `random_flip` would give.

    Args:
      key: the key that `random_flip` would get.
      posterior: q(z | x) of the images and of their mirror images, [B, 2, *latent_shape]; or of the
        images alone, [B, 1, *latent_shape], which leaves no choice.

    Returns:
      q(z | random_flip(key, x)), [B, *latent_shape].
    """
    num_images, num_variants = posterior.mean.shape[:2]
    flip = jax.random.bernoulli(key, shape=(num_images, 1, 1, 1)).reshape(-1)
    variant = jnp.where(flip, num_variants - 1, 0)
    return jax.tree.map(lambda a: a[jnp.arange(num_images), variant], posterior)


@flax.struct.dataclass
class Batch:
    """The inputs of a loss function in addition to the parameters.

    Attributes:
      x: images that the model sees, float32 [B, H, W, C] in [0, 1]; with a frozen VAE it may be
        their q(z | x), computed in advance.
      noise: N(0, I) noise of the draws from the posterior, [B, *latent_shape].
      prior_key: random key of what the prior draws for its loss.
    """

    x: jax.Array | DiagonalGaussian
    noise: jax.Array
    prior_key: jax.Array


# (params, batch, kl_weight) -> (loss, (metrics, log_std)). The metrics are means over the batch;
# log_std is the optimal one if the likelihood has `optimal_scale`, otherwise None.
LossFn: TypeAlias = Callable[
    [PyTree, Batch, jax.typing.ArrayLike],
    tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array | None]],
]


def prepare_batch(
    model: VAE,
    likelihood: Likelihood,
    flip: bool,
    x: jax.Array | DiagonalGaussian,
    key: jax.Array,
    step: jax.typing.ArrayLike,
) -> Batch:
    """Returns the batch of a training step.

    Args:
      model: the VAE.
      likelihood: p(x | z); it decides whether the images are binarised.
      flip: whether to mirror images at random.
      x: images [B, H, W, C] in [0, 1], or their posteriors as `choose_flipped` takes them.
      key: random key of the training run.
      step: number of the step, from 0.
    """
    flip_key, binarize_key, noise_key = jax.random.split(jax.random.fold_in(key, step), 3)
    if isinstance(x, DiagonalGaussian):
        x = choose_flipped(flip_key, x)
    elif flip:
        x = random_flip(flip_key, x)
    if likelihood.binarize:
        assert not isinstance(x, DiagonalGaussian)  # binarised images are always encoded anew
        x = jax.random.bernoulli(binarize_key, x).astype(jnp.float32)
    noise = jax.random.normal(noise_key, (len(jax.tree.leaves(x)[0]), *model.latent_shape))
    return Batch(x, noise, jax.random.fold_in(noise_key, 1))


def split_batch(batch: Batch, num_parts: int) -> Batch:
    """Splits a batch into parts of equal size, along a new first axis of each attribute.

    Part i has every num_parts-th image, so that each device keeps the images it has.
    """

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1)

    parts = jnp.arange(num_parts)
    prior_keys = jax.vmap(lambda i: jax.random.fold_in(batch.prior_key, i))(parts)
    return Batch(jax.tree.map(split, batch.x), split(batch.noise), prior_keys)


def _apply(model: VAE, params: PyTree, *arguments: Any, method: str) -> Any:
    """Calls a method of the model with given parameters."""
    return model.apply({"params": params}, *arguments, method=method)


def _draw_and_score(
    model: VAE, params: PyTree, batch: Batch
) -> tuple[DiagonalGaussian, jax.Array, jax.Array, jax.Array]:
    """Returns (posterior, z drawn from it, the prior's loss at z [B], log p(z) [B])."""
    if isinstance(batch.x, DiagonalGaussian):
        posterior = batch.x
    else:
        posterior = _apply(model, params, batch.x, method="encode")
    z = posterior.reparameterise(batch.noise)
    loss, log_prior = _apply(model, params, z, batch.prior_key, method="prior_loss")
    return posterior, z, loss, log_prior


def make_loss_fn(
    model: VAE, likelihood: Likelihood, free_bits: float = 0.0, distortion_weight: float = 1.0
) -> LossFn:
    """Returns the loss of the whole VAE, with the terms of the bound as metrics.

    Args:
      model: the VAE.
      likelihood: p(x | z).
      free_bits: nats that are free in each latent dimension.
      distortion_weight: weight of the distortion in the loss.
    """

    def loss_fn(
        params: PyTree, batch: Batch, kl_weight: jax.typing.ArrayLike
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array | None]]:
        x = batch.x
        assert not isinstance(x, DiagonalGaussian)  # the distortion needs the images
        posterior, z, _, log_prior = _draw_and_score(model, params, batch)
        outputs = _apply(model, params, z, method="decode")
        log_std = None
        if likelihood.optimal_scale:
            log_std = likelihood.batch_optimal_log_std(outputs, x)
            outputs = outputs.at[..., -1].set(log_std)
        terms = objectives.compute_elbo_terms(likelihood, posterior, z, log_prior, outputs, x)
        loss = objectives.compute_loss(terms, kl_weight, free_bits, distortion_weight)
        names = ("elbo", "rate", "distortion")
        return loss, ({name: getattr(terms, name).mean() for name in names}, log_std)

    return loss_fn


def make_prior_loss_fn(model: VAE) -> LossFn:
    """Returns the loss of the prior alone, with the rate as the only metric.

    Nothing is decoded. The draws from q(z | x) are new in each step.
    """

    def loss_fn(
        params: PyTree, batch: Batch, kl_weight: jax.typing.ArrayLike
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array | None]]:
        del kl_weight
        posterior, z, loss, log_prior = _draw_and_score(model, params, batch)
        rate = objectives.compute_rate(posterior, z, log_prior)
        return loss.mean(), ({"rate": rate.mean()}, None)

    return loss_fn
