"""Grids of images for the eye: interpolations, traversals of the latent, nearest neighbours."""

import jax
import numpy as np

from vae_jax.distributions import DiagonalGaussian, sample_posterior
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, manifold
from vae_jax.recording import figures

NUM_COLUMNS = 10
NUM_RECONSTRUCTIONS = 40
NUM_INTERPOLATIONS = 8
NUM_SAMPLES = 100
NUM_NEIGHBOURS = 10_000  # largest number of training images that samples are compared with
NUM_TRAVERSED_DIMS = 10
NUM_DIRECTIONS = 5  # number of principal directions
NUM_MOVED = 2  # number of images that each direction is added to
TRAVERSAL = np.linspace(-3.0, 3.0, 11)


def interpolations(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    """Draws a grid whose rows decode straight lines between the posterior means of two images."""
    ends = np.asarray(vae.encode(_ends(images)).mean)
    t = _fractions(ends)
    lines = [(1.0 - t) * a + t * b for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(np.concatenate(lines)), NUM_COLUMNS)


def interpolations_of_noise(vae: TrainedVAE, images: np.ndarray, key: jax.Array) -> np.ndarray:
    """Draws a grid whose rows decode paths between two images along which the prior is likely.

    One latent is drawn from the posterior of each image, and mapped to the noise from which the
    prior makes it. The points of the arc between the two noises are about as likely under the prior
    as its ends; points of a straight line between the latents need not be.
    """
    posterior = vae.encode(_ends(images))
    ends = vae.to_noise(sample_posterior(posterior, key))
    t = _fractions(ends)
    arcs = [slerp(a, b, t) for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(vae.from_noise(np.concatenate(arcs))), NUM_COLUMNS)


def _ends(images: np.ndarray) -> np.ndarray:
    """Returns the two images at the ends of each row, one row after the other."""
    return images[: 2 * min(NUM_INTERPOLATIONS, len(images) // 2)]


def _fractions(ends: np.ndarray) -> np.ndarray:
    """Returns fractions from 0 to 1 along a new first axis, to be multiplied with one end."""
    return np.linspace(0.0, 1.0, NUM_COLUMNS).reshape(-1, *[1] * (ends.ndim - 1))


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolates on an arc (spherical linear interpolation, Shoemake 1985).

    For two independent draws from N(0, I) the points are again distributed as N(0, I) if the angle
    between the draws is a right angle, as it nearly is in many dimensions (White 2016,
    arXiv:1609.04468).

    Args:
      a, b: two arrays of the same shape, not opposite to each other.
      t: fractions of the way, [T, 1, ..., 1].

    Returns:
      The points of the arc, [T, *shape].
    """
    cosine = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if angle < 1e-6:  # the same direction: 0 / 0 below
        return (1.0 - t) * a + t * b
    return (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nearest_neighbours_grid(vae: TrainedVAE, samples: np.ndarray) -> np.ndarray:
    """Draws a grid of samples [N, H, W, C], with the nearest training image below each.

    The distance is the squared error of pixels. If training mirrors images at random, the mirror
    images count as training images.
    """
    images = vae.experiment.dataset.split("train").shuffled(NUM_NEIGHBOURS)
    if vae.experiment.task.flip:  # the model has seen these as well
        images = np.concatenate([images, images[:, :, ::-1]])
    points, references = (figures.to_uint8(x).reshape(len(x), -1) for x in (samples, images))
    nearest, _ = manifold.nearest_neighbours(points, references, k=1)
    return figures.paired_grid(samples, images[nearest[:, 0]], NUM_COLUMNS)


def traversals(vae: TrainedVAE, image: np.ndarray, posterior: DiagonalGaussian) -> np.ndarray:
    """Draws a grid whose rows move one latent dimension of an image from -3 to 3.

    The rows are the dimensions with the highest mean rate, highest first.

    Args:
      vae: the model.
      image: image whose posterior mean is moved, [H, W, C].
      posterior: q(z | x) of all images of the split.
    """
    rate = np.asarray(posterior.kl_to_standard_normal()).mean(axis=0, dtype=np.float64).reshape(-1)
    dims = np.argsort(-rate)[:NUM_TRAVERSED_DIMS]
    code = np.asarray(vae.encode(image[None]).mean).reshape(-1)
    rows = np.tile(code, (len(dims), len(TRAVERSAL), 1))
    rows[np.arange(len(dims)), :, dims] = TRAVERSAL
    return figures.image_grid(vae.decode(rows.reshape(-1, *vae.latent_shape)), len(TRAVERSAL))


def principal_directions(vae: TrainedVAE, posterior: DiagonalGaussian) -> np.ndarray:
    """Draws a grid whose rows move an image along a principal direction of the latents.

    The principal directions of the aggregate posterior are found without labels and sorted by
    variance, largest first. Each row moves the posterior mean of one of the first images by -3 to 3
    standard deviations along one direction.

    Args:
      vae: the model.
      posterior: q(z | x) of all images of the split.
    """
    means = np.asarray(posterior.mean)
    directions, stds = latents.principal_directions(
        means, np.asarray(posterior.log_std), NUM_DIRECTIONS
    )
    t = TRAVERSAL.reshape(-1, *[1] * len(vae.latent_shape))
    rows = [
        code + t * std * direction
        for direction, std in zip(directions, stds, strict=True)
        for code in means[:NUM_MOVED]
    ]
    return figures.image_grid(vae.decode(np.concatenate(rows)), len(TRAVERSAL))
