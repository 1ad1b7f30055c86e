"""What can be measured of single images and their codes, and may explain why a model fails on them.

Images are floating-point in [0, 1], [N, H, W, C]; every function gives one number per image.
"""

import numpy as np
import scipy.ndimage
from scipy.special import entr, rel_entr

from vae_jax.metrics.manifold import nearest_neighbours
from vae_jax.metrics.spectrum import power_above, radial_power

FINE_CYCLES = 8  # texture: what is finer than 8 cycles per image side
_NEIGHBOURHOOD = (1, 3, 3)  # structures narrower than 3 pixels are thin


def contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation over the pixels, of all channels together (root mean square), [N]."""
    return np.sqrt(np.asarray(images, np.float64).var(axis=(1, 2)).mean(axis=-1))


def colour(images: np.ndarray) -> np.ndarray:
    """Standard deviation between a pixel's channels (root mean square over the pixels), [N]."""
    return np.sqrt(np.asarray(images, np.float64).var(axis=-1).mean(axis=(1, 2)))


def fine_power(images: np.ndarray) -> np.ndarray:
    """The part of contrast^2 at more than 8 cycles per image side, [N]."""
    return power_above(radial_power(images), FINE_CYCLES)


def thin_structures(images: np.ndarray) -> np.ndarray:
    """Contrast of lines of 1 or 2 pixels' width, mean over the image, white on black being 1, [N].

    Grey closing less grey opening by 3 x 3 pixels (Serra 1982): what is narrow and dark, and what
    is narrow and bright. Structures on the edge of the image continue beyond it.
    """
    grey = np.asarray(images, np.float64).mean(axis=-1)
    closed = scipy.ndimage.grey_closing(grey, size=_NEIGHBOURHOOD)
    return (closed - scipy.ndimage.grey_opening(grey, size=_NEIGHBOURHOOD)).mean(axis=(1, 2))


def saturated(images: np.ndarray) -> np.ndarray:
    """Share of the values that would be stored as 255, [N].

    Not of those at 0, which are the background in many data sets.
    """
    return (np.asarray(images) * 255.0 >= 254.5).mean(axis=(1, 2, 3))


def grey_entropy(images: np.ndarray) -> np.ndarray:
    """Entropy of pixels that are 1 with their grey value's probability, nats per image, [N].

    No model of binary images drawn from grey ones has a smaller expected distortion, and none with
    grey values as soft targets.
    """
    x = np.asarray(images, np.float64)
    return (entr(x) + entr(1.0 - x)).sum(axis=(1, 2, 3))


def excess_distortion(images: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Expected Bernoulli distortion at `means` less `grey_entropy`, nats per image, [N].

    It is KL(Bernoulli(images), Bernoulli(means)) summed over the pixels: what a model could avoid.
    """
    x = np.asarray(images, np.float64)
    # Float32 rounds a probability near 1 to 1, where one grey pixel would make all infinite.
    y = np.clip(np.asarray(means, np.float64), 2.0**-25, 1.0 - 2.0**-25)
    return (rel_entr(x, y) + rel_entr(1.0 - x, 1.0 - y)).sum(axis=(1, 2, 3))


def class_share(labels: np.ndarray) -> np.ndarray:
    """Size of each image's class, in units of an even share of all, [N]."""
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[index] * len(classes) / len(labels)


def blend(
    points: np.ndarray, references: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Whether points lie between two classes: (ratio [M], the two classes [M, 2]).

    The ratio is of two distances: to the middle between the nearest references of the two nearest
    classes, over that to the middle between the two nearest references of the nearest class. Below
    1, a blend of two classes is nearer than a blend within one. (The distances to the nearest
    references themselves say little: in many dimensions all are much the same.)

    Args:
      points: [M, D].
      references: [N, D].
      labels: of the references, [N].

    Returns:
      None where fewer than two classes have two references.
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts > 1]
    if len(classes) < 2:
        return None
    points, references = np.asarray(points, np.float64), np.asarray(references, np.float64)
    indices, distances = [], []
    for label in classes:
        members = np.flatnonzero(labels == label)
        nearest, distance = nearest_neighbours(points, references[members], 2)
        indices.append(members[nearest])
        distances.append(distance[:, 0])
    indices = np.stack(indices, axis=1)  # [M, classes, 2]
    order = np.argsort(np.stack(distances, axis=1), axis=1)[:, :2]
    rows = np.arange(len(points))
    first, second = indices[rows, order[:, 0]].T
    other = indices[rows, order[:, 1], 0]

    def distance_to_middle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        middle = (references[a] + references[b]) / 2.0
        return np.linalg.norm(points - middle, axis=1)

    return _ratio(distance_to_middle(first, other), distance_to_middle(first, second)), classes[
        order
    ]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; 1, which says nothing, where b is 0."""
    return np.divide(a, b, out=np.ones_like(a), where=b > 0)
