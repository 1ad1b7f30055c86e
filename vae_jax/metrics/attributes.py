"""Attributes of single images and their codes that may explain why a model fails on them.

Images are floating-point in [0, 1], [N, H, W, C]; every function returns one number per image.
"""

import numpy as np
import scipy.ndimage
from scipy.special import entr, rel_entr

from vae_jax.metrics.manifold import nearest_neighbours
from vae_jax.metrics.spectrum import power_above, radial_power

FINE_CYCLES = 8  # per image side; finer structures count as texture
_NEIGHBOURHOOD = (1, 3, 3)  # structures narrower than 3 pixels are thin


def contrast(images: np.ndarray) -> np.ndarray:
    """Returns the standard deviation over pixels, as root mean square over channels, [N]."""
    return np.sqrt(np.asarray(images, np.float64).var(axis=(1, 2)).mean(axis=-1))


def colour(images: np.ndarray) -> np.ndarray:
    """Returns the standard deviation between channels, as root mean square over pixels, [N]."""
    return np.sqrt(np.asarray(images, np.float64).var(axis=-1).mean(axis=(1, 2)))


def fine_power(images: np.ndarray) -> np.ndarray:
    """Returns the part of contrast^2 above 8 cycles per image side, [N]."""
    return power_above(radial_power(images), FINE_CYCLES)


def thin_structures(images: np.ndarray) -> np.ndarray:
    """Returns the contrast of lines 1 or 2 pixels wide, mean over the image, [N].

    White on black has contrast 1. The contrast is grey closing minus grey opening with 3 x 3 pixels
    (Serra 1982), which leaves narrow dark and narrow bright structures. Structures at the edge
    count as continuing beyond the image.
    """
    grey = np.asarray(images, np.float64).mean(axis=-1)
    closed = scipy.ndimage.grey_closing(grey, size=_NEIGHBOURHOOD)
    return (closed - scipy.ndimage.grey_opening(grey, size=_NEIGHBOURHOOD)).mean(axis=(1, 2))


def saturated(images: np.ndarray) -> np.ndarray:
    """Returns the share of values that would be stored as 255, [N].

    Values of 0 do not count, because they are the background in many datasets.
    """
    return (np.asarray(images) * 255.0 >= 254.5).mean(axis=(1, 2, 3))


def grey_entropy(images: np.ndarray) -> np.ndarray:
    """Returns the entropy of binarised pixels, nats per image, [N].

    Each pixel is 1 with the probability given by its grey value. The entropy is the smallest
    possible expected distortion, for models of binary images drawn from the grey ones and for
    models with grey values as soft targets.
    """
    x = np.asarray(images, np.float64)
    return (entr(x) + entr(1.0 - x)).sum(axis=(1, 2, 3))


def excess_distortion(images: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the expected Bernoulli distortion at `means` minus `grey_entropy`, nats, [N].

    It is KL(Bernoulli(images), Bernoulli(means)) summed over the pixels: what a model could avoid.
    """
    x = np.asarray(images, np.float64)
    # Float32 rounds probabilities near 1 to 1, and then one grey pixel makes the sum infinite.
    y = np.clip(np.asarray(means, np.float64), 2.0**-25, 1.0 - 2.0**-25)
    return (rel_entr(x, y) + rel_entr(1.0 - x, 1.0 - y)).sum(axis=(1, 2, 3))


def class_share(labels: np.ndarray) -> np.ndarray:
    """Returns the size of each image's class, relative to an even share of all images, [N]."""
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[index] * len(classes) / len(labels)


def blend(
    points: np.ndarray, references: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Measures whether points are between two classes.

    The ratio compares two distances of a point: that to the midpoint between the nearest references
    of the two nearest classes, divided by that to the midpoint between the two nearest references
    of the nearest class. Below 1, a blend of two classes is nearer than a blend within one class.
    (The distances to the nearest references themselves say little: in many dimensions they are all
    similar.)

    Args:
      points: the points, [M, D].
      references: points with a class, [N, D].
      labels: classes of the references, [N].

    Returns:
      (ratio [M], the two nearest classes [M, 2]), or None if fewer than two classes have two
      references.
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts > 1]
    if len(classes) < 2:
        return None
    points, references = np.asarray(points, np.float64), np.asarray(references, np.float64)
    class_indices, class_distances = [], []
    for label in classes:
        members = np.flatnonzero(labels == label)
        nearest, distances = nearest_neighbours(points, references[members], 2)
        class_indices.append(members[nearest])
        class_distances.append(distances[:, 0])
    indices = np.stack(class_indices, axis=1)  # [M, classes, 2]
    order = np.argsort(np.stack(class_distances, axis=1), axis=1)[:, :2]
    rows = np.arange(len(points))
    first, second = indices[rows, order[:, 0]].T
    other = indices[rows, order[:, 1], 0]

    def distance_to_midpoint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        midpoint = (references[a] + references[b]) / 2.0
        return np.linalg.norm(points - midpoint, axis=1)

    between, within = distance_to_midpoint(first, other), distance_to_midpoint(first, second)
    # A ratio of 1 says nothing.
    ratio = np.divide(between, within, out=np.ones_like(between), where=within > 0)
    return ratio, classes[order]
