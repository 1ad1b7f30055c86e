"""From a batch of images to the loss that training minimises."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from vae_jax import objectives
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE


def to_unit_interval(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [0, 1]; floating-point images pass as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def choose_flipped(key: jax.Array, posterior: DiagonalGaussian) -> DiagonalGaussian:
    """q(z | random_flip(key, x)) [B, *latent_shape] from q of x and of its mirror image, [B, 2, …].

    Where the second axis has length 1 there is nothing to choose.
    """
    num_images, num_variants = posterior.mean.shape[:2]
    flip = jax.random.bernoulli(key, shape=(num_images, 1, 1, 1)).reshape(-1)
    variant = jnp.where(flip, num_variants - 1, 0)
    return jax.tree.map(lambda a: a[jnp.arange(num_images), variant], posterior)


@flax.struct.dataclass
class Batch:
    """All that a training step is a function of besides its parameters.

    Attributes:
      x: what the model sees, float32 [B, H, W, C] in [0, 1]; on a frozen VAE it may be q(z | x),
        computed before.
      noise: N(0, I) of the draws from the posterior, [B, *latent_shape].
      prior_key: of what the prior draws for its loss.
    """

    x: jax.Array | DiagonalGaussian
    noise: jax.Array
    prior_key: jax.Array


def prepare_batch(
    model: VAE,
    likelihood: Likelihood,
    flip: bool,
    x: jax.Array | DiagonalGaussian,
    key: jax.Array,
    step: jax.typing.ArrayLike,
) -> Batch:
    """The batch of a training step from its images x [B, H, W, C] in [0, 1].

    Or from their posteriors, as `choose_flipped` takes them.
    """
    flip_key, binarize_key, noise_key = jax.random.split(jax.random.fold_in(key, step), 3)
    if isinstance(x, DiagonalGaussian):
        x = choose_flipped(flip_key, x)
    elif flip:
        x = random_flip(flip_key, x)
    if likelihood.binarize:
        x = jax.random.bernoulli(binarize_key, x).astype(jnp.float32)
    noise = jax.random.normal(noise_key, (len(jax.tree.leaves(x)[0]), *model.latent_shape))
    return Batch(x, noise, jax.random.fold_in(noise_key, 1))


def split_batch(batch: Batch, num_parts: int) -> Batch:
    """Parts of equal size along a new first axis of each attribute.

    Part i has every num_parts-th image, so that each device keeps the images it has.
    """

    def split(array):
        return array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1)

    parts = jnp.arange(num_parts)
    prior_keys = jax.vmap(lambda i: jax.random.fold_in(batch.prior_key, i))(parts)
    return Batch(jax.tree.map(split, batch.x), split(batch.noise), prior_keys)


def is_batch_optimal(likelihood: Likelihood) -> bool:
    return getattr(likelihood, "variance", None) == "batch_optimal"


def _draw_and_score(model: VAE, params, batch: Batch):
    """(posterior, z drawn from it, the prior's loss at z, log p(z)); the last two [B]."""
    posterior = batch.x
    if not isinstance(posterior, DiagonalGaussian):
        posterior = model.apply({"params": params}, batch.x, method="encode")
    z = posterior.reparameterise(batch.noise)
    return posterior, z, *model.apply({"params": params}, z, batch.prior_key, method="prior_loss")


def make_loss_fn(
    model: VAE, likelihood: Likelihood, free_bits: float = 0.0, distortion_weight: float = 1.0
) -> Callable:
    """Returns (params, batch, kl_weight) -> (loss, (metrics, log_std or None)).

    The metrics are the terms of the bound, means over the batch; log_std is that of a batch-optimal
    Gaussian.
    """

    def loss_fn(params, batch: Batch, kl_weight):
        x = batch.x
        posterior, z, _, log_prior = _draw_and_score(model, params, batch)
        outputs = model.apply({"params": params}, z, method="decode")
        log_std = None
        if is_batch_optimal(likelihood):
            log_std = likelihood.batch_optimal_log_std(outputs, x)
            outputs = outputs.at[..., -1].set(log_std)
        terms = objectives.compute_elbo_terms(likelihood, posterior, z, log_prior, outputs, x)
        loss = objectives.compute_loss(terms, kl_weight, free_bits, distortion_weight)
        names = ("elbo", "rate", "distortion")
        return loss, ({name: getattr(terms, name).mean() for name in names}, log_std)

    return loss_fn


def make_prior_loss_fn(model: VAE) -> Callable:
    """Likewise, of the prior alone: nothing is decoded, and the rate is the only metric.

    Draws of q(z | x) are new in each step.
    """

    def loss_fn(params, batch: Batch, kl_weight):
        del kl_weight
        posterior, z, loss, log_prior = _draw_and_score(model, params, batch)
        rate = objectives.compute_rate(posterior, z, log_prior)
        return loss.mean(), ({"rate": rate.mean()}, None)

    return loss_fn
