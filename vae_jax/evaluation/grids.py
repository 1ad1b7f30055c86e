"""Grids of images for the eye: interpolations, traversals of the latent, nearest neighbours."""

import jax
import numpy as np

from vae_jax.distributions import DiagonalGaussian, sample_posterior
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, manifold
from vae_jax.recording import figures
from vae_jax.runtime.memory import COMPARED, MEASURED, num_in_memory

NUM_COLUMNS = 10
NUM_RECONSTRUCTIONS = 40
NUM_INTERPOLATIONS = 8
NUM_SAMPLES = 100
NUM_NEIGHBOURS = 10_000  # largest number of training images that samples are compared with
NUM_TRAVERSED_DIMS = 10
NUM_DIRECTIONS = 5  # number of principal directions
NUM_MOVED = 2  # number of images that each direction is added to
TRAVERSAL = np.linspace(-3.0, 3.0, 11)


def num_rows(vae: TrainedVAE, most: int, num_columns: int = NUM_COLUMNS) -> int:
    """Returns the number of rows in a grid: `most`, or as many of large images as fit in memory."""
    num_images = num_in_memory(vae.image_shape, most * num_columns, MEASURED)
    return max(1, num_images // num_columns)


def interpolations(vae: TrainedVAE, posterior: DiagonalGaussian) -> np.ndarray:
    """Draws a grid whose rows decode straight lines between the posterior means of two images.

    Args:
      vae: the model.
      posterior: q(z | x) of the images, at least 2.
    """
    ends = np.asarray(_ends(vae, posterior).mean)
    t = _fractions(ends)
    lines = [(1.0 - t) * a + t * b for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(np.concatenate(lines)), NUM_COLUMNS)


def interpolations_of_noise(
    vae: TrainedVAE, posterior: DiagonalGaussian, key: jax.Array
) -> np.ndarray:
    """Draws a grid whose rows decode paths between two images along which the prior is likely.

    One latent is drawn from the posterior of each image, and mapped to the noise from which the
    prior makes it. The points of the arc between the two noises are about as likely under the prior
    as its ends; points of a straight line between the latents need not be.

    Args:
      vae: the model.
      posterior: q(z | x) of the images, at least 2.
      key: random key of the latents.
    """
    ends = vae.to_noise(sample_posterior(_ends(vae, posterior), key))
    t = _fractions(ends)
    arcs = [slerp(a, b, t) for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(vae.from_noise(np.concatenate(arcs))), NUM_COLUMNS)


def _ends(vae: TrainedVAE, posterior: DiagonalGaussian) -> DiagonalGaussian:
    """Returns the posteriors of the two images at the ends of each row, row by row."""
    n = 2 * min(num_rows(vae, NUM_INTERPOLATIONS), len(posterior.mean) // 2)
    return jax.tree.map(lambda a: a[:n], posterior)


def _fractions(ends: np.ndarray) -> np.ndarray:
    """Returns fractions from 0 to 1 along a new first axis, to be multiplied with one end."""
    return np.linspace(0.0, 1.0, NUM_COLUMNS).reshape(-1, *[1] * (ends.ndim - 1))


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolates on an arc (spherical linear interpolation, Shoemake 1985).

    For two independent draws from N(0, I) the points are again distributed as N(0, I) if the angle
    between the draws is a right angle, as it nearly is in many dimensions (White 2016,
    arXiv:1609.04468).

    Args:
      a, b: two arrays of the same shape. Opposite ones have no one arc between them; their points
        lie on the straight line.
      t: fractions of the way, [T, 1, ..., 1].

    Returns:
      The points of the arc, [T, *shape].
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cosine = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # the same or the opposite direction: 0 / 0 below
        return (1.0 - t) * a + t * b
    return (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nearest_neighbours_grid(vae: TrainedVAE, samples: np.ndarray) -> np.ndarray:
    """Draws a grid of samples [N, H, W, C], with the nearest training image below each.

    The distance is the squared error of pixels. If training mirrors images at random, the mirror
    images count as training images.
    """
    num_images = num_in_memory(vae.image_shape, NUM_NEIGHBOURS, COMPARED)
    images = vae.experiment.dataset.split("train").shuffled(num_images)
    nearest, distances = _nearest(samples, images)
    if vae.experiment.task.flip:  # the model has seen these as well
        mirrored, mirrored_distances = _nearest(samples, images[:, :, ::-1])
        is_mirrored = (mirrored_distances < distances)[:, None, None, None]
        nearest = np.where(is_mirrored, mirrored, nearest)
    return figures.paired_grid(samples, nearest, NUM_COLUMNS)


def _nearest(samples: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest of the images to each sample, uint8 [N, H, W, C], and its distance."""
    points, references = (figures.to_uint8(x).reshape(len(x), -1) for x in (samples, images))
    indices, distances = manifold.nearest_neighbours(points, references, k=1)
    return images[indices[:, 0]], distances[:, 0]


def traversals(vae: TrainedVAE, posterior: DiagonalGaussian) -> np.ndarray:
    """Draws a grid whose rows move one latent dimension of the first image from -3 to 3.

    The rows are the dimensions with the highest mean rate, highest first.

    Args:
      vae: the model.
      posterior: q(z | x) of all images of the split.
    """
    rate = np.asarray(posterior.kl_to_standard_normal()).mean(axis=0, dtype=np.float64).reshape(-1)
    dims = np.argsort(-rate)[: num_rows(vae, NUM_TRAVERSED_DIMS, len(TRAVERSAL))]
    code = np.asarray(posterior.mean[0]).reshape(-1)
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
      posterior: q(z | x) of all images of the split, at least 2.
    """
    means = np.asarray(posterior.mean)
    num_directions = num_rows(vae, NUM_DIRECTIONS, NUM_MOVED * len(TRAVERSAL))
    directions, stds = latents.principal_directions(
        means, np.asarray(posterior.log_std), num_directions
    )
    t = TRAVERSAL.reshape(-1, *[1] * len(vae.latent_shape))
    rows = [
        code + t * std * direction
        for direction, std in zip(directions, stds, strict=True)
        for code in means[:NUM_MOVED]
    ]
    return figures.image_grid(vae.decode(np.concatenate(rows)), len(TRAVERSAL))
