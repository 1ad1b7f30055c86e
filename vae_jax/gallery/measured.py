"""Attributes that are measured on reconstructions and on samples."""

from collections.abc import Callable, Iterator

import numpy as np

from vae_jax.data import class_name
from vae_jax.gallery.hypotheses import Attribute
from vae_jax.inference.arguments import NotFiniteError
from vae_jax.metrics import attributes as measures
from vae_jax.metrics.manifold import nearest_neighbours
from vae_jax.runtime.memory import MEASURED, num_in_memory
from vae_jax.typing import Array

BLOCK_SIZE = 500  # images measured at a time
NUM_CODES = 10  # nearest neighbours of a code
LATENT_FAR = "latent far from the aggregate posterior"


def check_finite(what: str, values: Array) -> None:
    """Raises a NotFiniteError if a number is not finite."""
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"the model's {what} are not all finite, so they cannot be ranked: evaluate an earlier "
            "checkpoint with --checkpoint=STEP."
        )


def _blocks(n: int, image_shape: tuple[int, ...]) -> Iterator[slice]:
    """Yields slices that cover n rows: at most `BLOCK_SIZE` rows, fewer of large images."""
    size = num_in_memory(image_shape, BLOCK_SIZE, MEASURED)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measures images by themselves, uint8 [N, H, W, C]; returns {name: values [N]}."""
    functions = (
        *("contrast", "colour", "fine_power"),
        *("thin_structures", "saturated", "grey_entropy"),
    )
    parts = [
        {name: getattr(measures, name)(images[rows] / 255.0) for name in functions}
        for rows in _blocks(len(images), images.shape[1:])
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in functions}


def measure_pairs(
    images: np.ndarray, reconstruct: Callable[[slice], np.ndarray]
) -> dict[str, np.ndarray]:
    """Measures images together with their reconstructions; returns {name: values [N]}.

    Args:
      images: the originals, uint8 [N, H, W, C].
      reconstruct: maps rows to their reconstructions in [0, 1]; called block by block.
    """
    fine_power, excess = [], []
    for rows in _blocks(len(images), images.shape[1:]):
        means = np.asarray(reconstruct(rows))
        check_finite("reconstructions", means)
        fine_power.append(measures.fine_power(means))
        excess.append(measures.excess_distortion(images[rows] / 255.0, means))
    return {
        "reconstructed_fine_power": np.concatenate(fine_power),
        "excess_distortion": np.concatenate(excess),
    }


def compare(
    n: int,
    image_shape: tuple[int, ...],
    first: Callable[[slice], np.ndarray],
    second: Callable[[slice], np.ndarray],
) -> np.ndarray:
    """Returns the root mean square difference over the pixels of n pairs of images, [n].

    Args:
      n: number of pairs.
      image_shape: (H, W, C).
      first, second: map rows to images in [0, 1]; called block by block.
    """
    parts = []
    for rows in _blocks(n, image_shape):
        difference = np.asarray(first(rows), np.float64) - second(rows)
        parts.append(np.sqrt((difference**2).mean(axis=(1, 2, 3))))
    return np.concatenate(parts)


def _image_attributes(measured: dict[str, np.ndarray]) -> list[Attribute]:
    """Returns the attributes that images have by themselves, real or not."""
    attributes = [
        Attribute(
            "thin_structures",
            "thin structures",
            "contrast of lines of 1 or 2 pixels, mean over the image",
            measured["thin_structures"],
            "%",
        ),
        Attribute(
            "contrast",
            "low contrast",
            "standard deviation of the pixels, on a range of 1",
            measured["contrast"],
            is_low=True,
        ),
        Attribute(
            "saturated", "saturated pixels", "pixels at level 255", measured["saturated"], "%"
        ),
    ]
    if measured["colour"].any():
        attributes.append(
            Attribute(
                "colour",
                "strong colours",
                "standard deviation between the channels, on a range of 1",
                measured["colour"],
            )
        )
    return attributes


def _lost_texture(measured: dict[str, np.ndarray]) -> Attribute:
    """Returns the energy above 8 cycles that reconstructions lack, relative to the data's mean."""
    original, kept = measured["fine_power"], measured["reconstructed_fine_power"]
    mean = original.mean()

    def detail(rows: np.ndarray) -> str:
        share = kept[rows].sum() / max(original[rows].sum(), 1e-300)
        return f"{share:.0%} of the data's energy above {measures.FINE_CYCLES} cycles is kept"

    return Attribute(
        "fine_power_lost",
        "fine texture lost",
        f"energy lost above {measures.FINE_CYCLES} cycles, relative to the data's mean there",
        (original - kept) / (mean if mean > 0 else 1.0),
        "x",
        detail=detail,
    )


def draw_attribute(values: np.ndarray, measure: str, unit: str) -> Attribute:
    """Returns the attribute for what a draw z ~ q(z|x) changes compared with E[z|x], [N]."""
    return Attribute("draw", "unlucky draw of z", measure, values, unit)


def grey_attribute(measured: dict[str, np.ndarray]) -> Attribute:
    """Returns the part of a Bernoulli likelihood's distortion that is due to grey values."""
    return Attribute(
        "grey_entropy",
        "noise of grey pixels",
        "entropy of the grey values, which no binary model can avoid",
        measured["grey_entropy"],
        "nats",
    )


def reconstruction_attributes(
    measured: dict[str, np.ndarray],
    codes: np.ndarray,
    rate: np.ndarray,
    labels: np.ndarray | None,
) -> list[Attribute]:
    """Returns the attributes of N images and their reconstructions.

    Args:
      measured: results of `measure_images` and `measure_pairs`.
      codes: posterior means, [N, D].
      rate: rate of each image, nats, [N].
      labels: class labels [N], or None.
    """
    attributes = [
        _lost_texture(measured),
        *_image_attributes(measured),
        Attribute("rate", "rate outlier", "rate", rate, "nats"),
    ]
    k = min(NUM_CODES, len(codes) - 1)
    if k:
        attributes += _neighbour_attributes(*nearest_neighbours(codes, codes, k, True), labels)
    if labels is not None:
        attributes.append(
            Attribute(
                "class_share",
                "rare class",
                "size of the class, relative to an even share",
                measures.class_share(labels),
                "x",
                is_low=True,
                limit=0.5,
            )
        )
    return attributes


def _neighbour_attributes(
    indices: np.ndarray, distances: np.ndarray, labels: np.ndarray | None
) -> list[Attribute]:
    """Returns the attributes derived from the k nearest other codes of each code, [N, k]."""
    k = indices.shape[1]
    attributes = [
        Attribute(
            "latent_distance",
            LATENT_FAR,
            f"distance of E[z|x] to its {_ordinal(k)} nearest neighbour, in units of the median",
            _in_medians(distances[:, -1]),
            "x",
            short="latent far off",
        )
    ]
    if labels is not None:
        others = (labels[indices] != labels[:, None]).sum(axis=1)
        attributes.append(
            Attribute(
                "label_mix",
                "label mix",
                f"codes of other classes among the nearest {k}",
                others.astype(float),
                f"of {k}",
                limit=k / 2.0,
            )
        )
    return attributes


def _in_medians(values: np.ndarray) -> np.ndarray:
    """Returns the values in units of their median, or unchanged if that is 0."""
    median = np.median(values)
    return values / median if median > 0 else values


def _ordinal(k: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(k, f"{k}th")


def sample_attributes(
    measured: dict[str, np.ndarray],
    real_fine_power: float,
    prior_hole: np.ndarray,
    sparsity: np.ndarray,
    blend: tuple[np.ndarray, np.ndarray] | None,
    dataset: str,
) -> list[Attribute]:
    """Returns the attributes of N samples.

    Args:
      measured: result of `measure_images`.
      real_fine_power: mean `fine_power` of the real images.
      prior_hole: log p(z) - log of the aggregate posterior at z, nats, [N].
      sparsity: distance between the nearest real image and its own neighbours, any unit, [N].
      blend: result of `metrics.attributes.blend`, or None.
      dataset: name of the dataset that defines the classes.
    """
    attributes = [
        Attribute(
            "prior_hole",
            LATENT_FAR,
            "log p(z) - log q(z)",
            prior_hole,
            "nats",
            short="latent far off",
        ),
        Attribute(
            "sparsity",
            "rare kind of image",
            "distance of the nearest image to its 3rd nearest neighbour, in units of the median",
            _in_medians(sparsity),
            "x",
        ),
        *_image_attributes(measured),
    ]
    if real_fine_power > 0:
        attributes.append(
            Attribute(
                "fine_power",
                "fine texture lost",
                f"energy above {measures.FINE_CYCLES} cycles, relative to that of the data",
                measured["fine_power"] / real_fine_power,
                "%",
                is_low=True,
            )
        )
    if blend is not None:
        ratio, classes = blend

        def detail(rows: np.ndarray) -> str:
            pairs = [" and ".join(class_name(dataset, c) for c in classes[row]) for row in rows]
            return "; ".join(dict.fromkeys(pairs))

        attributes.append(
            Attribute(
                "blend",
                "two modes blended",
                "distance to the midpoint between the nearest images of two classes, relative to "
                "that within one class",
                ratio,
                is_low=True,
                limit=1.0,
                detail=detail,
            )
        )
    return attributes
