"""Grids of images to look at."""

import jax
import numpy as np

from vae_jax import experiment
from vae_jax.distributions import DiagonalGaussian
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, manifold
from vae_jax.recording import figures

NUM_COLUMNS = 10
NUM_RECONSTRUCTIONS = 40
NUM_INTERPOLATIONS = 8
NUM_SAMPLES = 100
NUM_NEIGHBOURS = 10_000  # training images that samples are compared with, at most
NUM_TRAVERSED_DIMS = 10
NUM_DIRECTIONS = 5  # principal ones of the aggregate posterior
NUM_MOVED = 2  # images that each is added to
TRAVERSAL = np.linspace(-3.0, 3.0, 11)


def interpolations(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    """Grid: each row decodes the straight line between the posterior means of two images."""
    ends = vae.encode(_ends(images)).mean
    t = _fractions(ends)
    lines = [(1.0 - t) * a + t * b for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(np.concatenate(lines)), NUM_COLUMNS)


def interpolations_of_noise(vae: TrainedVAE, images: np.ndarray, key: jax.Array) -> np.ndarray:
    """Grid: each row is a path between draws of the posteriors of two images that the prior knows.

    The draws are taken to the noise of which the prior makes them; points of the arc between the
    two noises are as likely as they are, which those of a straight line between codes are not.
    """
    posterior = vae.encode(_ends(images))
    ends = vae.to_noise(posterior.reparameterise(jax.random.normal(key, posterior.mean.shape)))
    t = _fractions(ends)
    arcs = [slerp(a, b, t) for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(vae.from_noise(np.concatenate(arcs))), NUM_COLUMNS)


def _ends(images: np.ndarray) -> np.ndarray:
    """The pairs of images between which rows of a grid lie, one after the other."""
    return images[: 2 * min(NUM_INTERPOLATIONS, len(images) // 2)]


def _fractions(ends: np.ndarray) -> np.ndarray:
    """From 0 to 1 along a new first axis, to be multiplied with one end."""
    return np.linspace(0.0, 1.0, NUM_COLUMNS).reshape(-1, *[1] * (ends.ndim - 1))


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Spherical linear interpolation (Shoemake 1985; of noise: White 2016, arXiv:1609.04468).

    Args:
      a, b: two vectors of any one shape, not opposite to each other.
      t: fractions of the way, [T, 1, ..., 1].

    Returns:
      [T, *shape]: their weights make N(0, I) of two independent draws from it, if the angle between
      these is a right one, which in many dimensions it nearly is.
    """
    cosine = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if angle < 1e-6:  # the same direction: 0 / 0 below
        return (1.0 - t) * a + t * b
    return (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nearest_neighbours_grid(vae: TrainedVAE, samples: np.ndarray) -> np.ndarray:
    """Grid: samples [N, H, W, C], and below each the nearest training image, by squared error.

    Where training mirrors images at random, mirror images are among these.
    """
    train = experiment.load_split(vae.config, "train")
    chosen = np.random.default_rng(0).permutation(len(train))[:NUM_NEIGHBOURS]
    images = train.take(chosen)
    if vae.config.data.flip:  # the model has seen these as well
        images = np.concatenate([images, images[:, :, ::-1]])
    rows = (figures.to_uint8(x).reshape(len(x), -1) for x in (samples, images))
    nearest, _ = manifold.nearest_neighbours(*rows, k=1)
    return figures.paired_grid(samples, images[nearest[:, 0]], NUM_COLUMNS)


def traversals(vae: TrainedVAE, image: np.ndarray, posterior: DiagonalGaussian) -> np.ndarray:
    """Grid: each row moves one latent dimension of one image's code from -3 to 3.

    Args:
      vae: the model.
      image: the one whose posterior mean is moved, [H, W, C].
      posterior: of the whole split; its dimensions of highest mean rate are shown, highest first.
    """
    rate = np.asarray(posterior.kl_to_standard_normal()).mean(axis=0, dtype=np.float64).reshape(-1)
    dims = np.argsort(-rate)[:NUM_TRAVERSED_DIMS]
    code = vae.encode(image[None]).mean.reshape(-1)
    rows = np.repeat(code[None], len(dims) * len(TRAVERSAL), axis=0)
    rows = rows.reshape(len(dims), len(TRAVERSAL), -1)
    for row, dim in zip(rows, dims, strict=True):
        row[:, dim] = TRAVERSAL
    return figures.image_grid(vae.decode(rows.reshape(-1, *vae.latent_shape)), len(TRAVERSAL))


def principal_directions(vae: TrainedVAE, posterior: DiagonalGaussian) -> np.ndarray:
    """Grid: directions found without labels, added to the codes of the same images.

    Along each principal direction of the aggregate posterior, that of the largest variance first,
    the posterior means of the first images are moved by -3 to 3 standard deviations, a row each.

    Args:
      vae: the model.
      posterior: of the whole split.
    """
    directions, stds = latents.principal_directions(
        posterior.mean, posterior.log_std, NUM_DIRECTIONS
    )
    t = TRAVERSAL.reshape(-1, *[1] * len(vae.latent_shape))
    rows = [
        code + t * std * direction
        for direction, std in zip(directions, stds, strict=True)
        for code in posterior.mean[:NUM_MOVED]
    ]
    return figures.image_grid(vae.decode(np.concatenate(rows)), len(TRAVERSAL))
