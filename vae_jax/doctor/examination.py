"""Measurements of a model on its data, from which findings are derived."""

import dataclasses
from typing import Any

import numpy as np

from vae_jax.data import Split, fixed_order
from vae_jax.distributions import sample_posterior
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import spectrum, two_sample
from vae_jax.metrics.latents import ACTIVE_VARIANCE
from vae_jax.metrics.manifold import nearest_neighbours
from vae_jax.runtime.memory import KEPT, MEASURED, num_in_memory
from vae_jax.streams import stream

# If images are so large that these numbers do not fit in memory, there are fewer of them.
NUM_BOUND_IMAGES = 1000  # images of each split for the ELBO and all latent statistics
NUM_DECODED = 500  # images that are decoded and compared
MIN_NUM_IMAGES = 10  # in each split; fewer allow hardly any conclusion
NUM_NEIGHBOURS = 10_000  # images of each split that samples are compared with, at most
NEIGHBOUR_SIDE = 32  # pixels; larger images are reduced to about this before distances are taken
BLOCK_SIZE = 500  # images reduced at a time


@dataclasses.dataclass(frozen=True)
class Examination:
    """The measurements of one checkpoint. Arrays have a value per image unless stated otherwise.

    Attributes:
      step: step of the checkpoint.
      train_elbo, validation_elbo: ELBO of images of each split, nats, one draw of z per image.
      raw_elbo: `validation_elbo` with the raw parameters, for the same images and draws; None if
        the evaluated parameters are the raw ones.
      rate_per_dim: KL(q(z|x), N(0, I)), nats, mean over the validation images, [D].
      log_prior_ratio: log p(z) - log N(z; 0, I), nats, mean over the validation images.
      code_variance: variance of E[z|x] over the validation images, [D].
      swap_gap: distortion at another image's z minus distortion at the image's own z, nats.
      aggregate_mean, aggregate_variance: moments of draws z ~ q(z|x), [D].
      prior_mean, prior_variance: moments of p(z), [D]; estimated from draws unless p is N(0, I).
      mmd, mmd_null: squared maximum mean discrepancy between draws of the aggregate posterior and
        of the prior, and its values after random relabelling.
      decoded_accuracy: accuracy of a nearest-neighbour classifier that tells decoded draws of the
        prior from decoded draws of the aggregate posterior; 0.5 is chance.
      data_power, reconstruction_power: mean radial power spectrum, [K].
      mean_squared_error: mean squared error of the likelihood's mean at z ~ q(z|x).
      pixel_variance: variance of the data around their mean image.
      likelihood_std: standard deviation of a Gaussian likelihood; None for other likelihoods.
      train_distances, validation_distances: distance of each sample to the nearest training image
        and to the nearest held-out image, root mean square over pixels.
      num_train, num_validation: number of images in which the nearest one was searched.
      num_nearest_train, num_nearest: number of training images among the images that are nearest
        to some sample, and number of all these images. Each image counts once, because similar
        samples add no evidence.
    """

    step: int
    train_elbo: np.ndarray
    validation_elbo: np.ndarray
    raw_elbo: np.ndarray | None
    rate_per_dim: np.ndarray
    log_prior_ratio: float
    code_variance: np.ndarray
    swap_gap: np.ndarray
    aggregate_mean: np.ndarray
    aggregate_variance: np.ndarray
    prior_mean: np.ndarray
    prior_variance: np.ndarray
    mmd: float
    mmd_null: np.ndarray
    decoded_accuracy: float
    data_power: np.ndarray
    reconstruction_power: np.ndarray
    mean_squared_error: float
    pixel_variance: float
    likelihood_std: float | None
    train_distances: np.ndarray
    validation_distances: np.ndarray
    num_train: int
    num_validation: int
    num_nearest_train: int
    num_nearest: int

    @property
    def rate(self) -> float:
        """Mean rate over the validation images, nats."""
        return float(self.rate_per_dim.sum()) - self.log_prior_ratio

    @property
    def active_units(self) -> int:
        return int((self.code_variance >= ACTIVE_VARIANCE).sum())


class NonFiniteModelError(FloatingPointError):
    """The ELBO or the decoder output of a model is not finite."""


def examine(vae: TrainedVAE, train: Split, validation: Split) -> Examination:
    """Measures a checkpoint, with the same images and noise in every call.

    Args:
      vae: model with the parameters that are evaluated.
      train, validation: splits of the run.

    Raises:
      NonFiniteModelError: the ELBO of these images, or what the model decodes, is not finite.
    """
    seed = vae.experiment.evaluation.seed
    elbo_key = stream("doctor/elbo", seed)
    num_images, num_decoded = (
        max(MIN_NUM_IMAGES, num_in_memory(vae.image_shape, n, bytes_per_value))
        for n, bytes_per_value in ((NUM_BOUND_IMAGES, KEPT), (NUM_DECODED, MEASURED))
    )
    images = validation.shuffled(num_images)
    terms = vae.elbo_terms(images, elbo_key)
    train_elbo = vae.elbo(train.shuffled(num_images), elbo_key)
    if not (np.isfinite(terms.elbo).all() and np.isfinite(train_elbo).all()):
        raise NonFiniteModelError(f"The ELBO of the model at step {vae.step} is not finite")
    posterior = vae.encode(images)
    z = np.asarray(sample_posterior(posterior, stream("doctor/posterior", seed)))
    rows = z.reshape(len(z), -1)
    prior_z = vae.sample_prior(stream("doctor/prior", seed), len(z))
    if not np.isfinite(prior_z).all():
        raise NonFiniteModelError(f"A latent of the prior at step {vae.step} is not finite")
    prior_rows = prior_z.reshape(rows.shape)
    mmd, mmd_null = two_sample.mmd_test(
        rows[:num_decoded], prior_rows[:num_decoded], np.random.default_rng(seed)
    )
    normal = vae.experiment.prior.splits_by_dimension
    decoded, samples = vae.decode(z[:num_decoded]), vae.decode(prior_z[:num_decoded])
    shown = images[:num_decoded].astype(np.float32) / 255.0
    # Each image gets the latent of its predecessor.
    swap_gap = vae.log_prob(images, z) - vae.log_prob(images, np.roll(z, 1, axis=0))
    if not all(np.isfinite(values).all() for values in (decoded, samples, swap_gap)):
        raise NonFiniteModelError(
            f"The decoder output of the model at step {vae.step} is not finite"
        )
    return Examination(
        step=vae.step,
        train_elbo=train_elbo,
        validation_elbo=np.asarray(terms.elbo),
        raw_elbo=None if vae.raw is None else vae.raw.elbo(images, elbo_key),
        rate_per_dim=np.asarray(terms.rate_per_dim).mean(axis=0, dtype=np.float64).ravel(),
        log_prior_ratio=float(terms.log_prior_ratio.mean(dtype=np.float64)),
        code_variance=np.asarray(posterior.mean, np.float64).var(axis=0).ravel(),
        swap_gap=swap_gap,
        aggregate_mean=rows.mean(axis=0, dtype=np.float64),
        aggregate_variance=rows.var(axis=0, dtype=np.float64),
        prior_mean=np.zeros(rows.shape[1]) if normal else prior_rows.mean(axis=0),
        prior_variance=np.ones(rows.shape[1]) if normal else prior_rows.var(axis=0),
        mmd=mmd,
        mmd_null=mmd_null,
        decoded_accuracy=two_sample.nearest_neighbour_accuracy(
            _flatten(decoded), _flatten(samples)
        ),
        data_power=spectrum.radial_power(shown).mean(axis=0),
        reconstruction_power=spectrum.radial_power(decoded).mean(axis=0),
        mean_squared_error=float(np.mean((decoded - shown) ** 2, dtype=np.float64)),
        pixel_variance=float(shown.var(axis=0, dtype=np.float64).mean()),
        likelihood_std=vae.likelihood.std(vae.params),
        **_neighbours(samples, train, validation),
    )


def _neighbours(samples: np.ndarray, train: Split, validation: Split) -> dict[str, Any]:
    """Returns the fields of an `Examination` about the nearest images of samples."""
    sets = [_shuffled_rows(split) for split in (train, validation)]
    rows = _flatten(samples)
    (to_train, train_distances), (to_validation, validation_distances) = (
        (found[:, 0] for found in nearest_neighbours(rows, s, k=1)) for s in sets
    )
    is_train = train_distances < validation_distances
    num_nearest_train = len(np.unique(to_train[is_train]))
    scale = np.sqrt(rows.shape[1])
    return {
        "train_distances": train_distances / scale,
        "validation_distances": validation_distances / scale,
        "num_nearest_train": num_nearest_train,
        "num_nearest": num_nearest_train + len(np.unique(to_validation[~is_train])),
        "num_train": len(sets[0]),
        "num_validation": len(sets[1]),
    }


def _shuffled_rows(split: Split) -> np.ndarray:
    """Returns `_flatten` of the first images in the fixed order, at most `NUM_NEIGHBOURS`."""
    num_images = num_in_memory(split.image_shape, NUM_NEIGHBOURS, KEPT)
    size = num_in_memory(split.image_shape, BLOCK_SIZE, MEASURED)
    order = fixed_order(len(split))[:num_images]
    blocks = (order[start : start + size] for start in range(0, len(order), size))
    return np.concatenate([_flatten(split.take(block)) for block in blocks])


def _flatten(images: np.ndarray) -> np.ndarray:
    """Flattens [N, H, W, C] uint8 or [0, 1] to float32 rows in [0, 1], after block means.

    Sides of 64 or more pixels are reduced by an integer factor, to at least 32.
    """
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255.0
    n, height, width, channels = images.shape
    down, across = (max(1, side // NEIGHBOUR_SIDE) for side in (height, width))
    height, width = height // down, width // across
    blocks = images[:, : height * down, : width * across].reshape(
        n, height, down, width, across, channels
    )
    return blocks.mean(axis=(2, 4)).reshape(n, -1)
