"""The attributes that are measured of reconstructions and of samples."""

from collections.abc import Callable, Iterator

import numpy as np

from vae_jax.gallery.classes import class_name
from vae_jax.gallery.hypotheses import Attribute
from vae_jax.inference.image_sets import NotFiniteError
from vae_jax.metrics import attributes as measures
from vae_jax.metrics.manifold import nearest_neighbours

BLOCK_SIZE = 500  # images that are measured at a time
NUM_CODES = 10  # neighbours of a code
LATENT_FAR = "latent far from the aggregate posterior"


def check_finite(what: str, values: np.ndarray) -> None:
    """Raises a NotFiniteError where a number is not finite."""
    if not np.isfinite(values).all():
        raise NotFiniteError(
            f"the model's {what} are not all finite: they cannot be ranked; evaluate an earlier "
            "checkpoint with --checkpoint=STEP."
        )


def _blocks(n: int) -> Iterator[slice]:
    starts = range(0, n, BLOCK_SIZE)
    return (slice(start, min(start + BLOCK_SIZE, n)) for start in starts)


def measure_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """What is measured of images alone, uint8 [N, H, W, C]: {name: [N]}."""
    functions = (
        *("contrast", "colour", "fine_power"),
        *("thin_structures", "saturated", "grey_entropy"),
    )
    parts = [
        {name: getattr(measures, name)(images[rows] / 255.0) for name in functions}
        for rows in _blocks(len(images))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in functions}


def measure_pairs(
    images: np.ndarray, reconstruct: Callable[[slice], np.ndarray]
) -> dict[str, np.ndarray]:
    """What is measured of images uint8 [N, H, W, C] and their reconstructions: {name: [N]}.

    Args:
      images: the originals.
      reconstruct: rows -> reconstructions in [0, 1] of these rows; called block by block.
    """
    fine_power, excess = [], []
    for rows in _blocks(len(images)):
        means = np.asarray(reconstruct(rows))
        check_finite("reconstructions", means)
        fine_power.append(measures.fine_power(means))
        excess.append(measures.excess_distortion(images[rows] / 255.0, means))
    return {
        "reconstructed_fine_power": np.concatenate(fine_power),
        "excess_distortion": np.concatenate(excess),
    }


def compare(
    n: int, first: Callable[[slice], np.ndarray], second: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Root mean square difference over the pixels of n images in [0, 1], [n].

    Args:
      n: of images.
      first, second: rows -> images; called block by block.
    """
    parts = []
    for rows in _blocks(n):
        difference = np.asarray(first(rows), np.float64) - second(rows)
        parts.append(np.sqrt((difference**2).mean(axis=(1, 2, 3))))
    return np.concatenate(parts)


def _of_images(measured: dict[str, np.ndarray]) -> list[Attribute]:
    """Attributes that images have by themselves, real or not."""
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
            "standard deviation of the pixels, of a range of 1",
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
                "standard deviation between the channels, of a range of 1",
                measured["colour"],
            )
        )
    return attributes


def _lost_texture(measured: dict[str, np.ndarray]) -> Attribute:
    """Contrast^2 above 8 cycles that the reconstruction lacks, in units of the data's mean."""
    there, kept = measured["fine_power"], measured["reconstructed_fine_power"]
    mean = there.mean()

    def detail(rows: np.ndarray) -> str:
        share = kept[rows].sum() / max(there[rows].sum(), 1e-300)
        return f"spectrum above {measures.FINE_CYCLES} cycles: {share:.0%} of the data's energy"

    return Attribute(
        "fine_power_lost",
        "fine texture lost",
        f"energy lost above {measures.FINE_CYCLES} cycles, the data's mean there being 1",
        (there - kept) / (mean if mean > 0 else 1.0),
        "x",
        detail=detail,
    )


def of_draw(values: np.ndarray, measure: str, unit: str) -> Attribute:
    """What z ~ q(z|x) changes beside E[z|x], [N]."""
    return Attribute("draw", "unlucky draw of z", measure, values, unit)


def of_grey(measured: dict[str, np.ndarray]) -> Attribute:
    """Of the distortion of a Bernoulli likelihood: the part that is in the grey values."""
    return Attribute(
        "grey_entropy",
        "noise of grey pixels",
        "entropy of the grey values, which no binary model can avoid",
        measured["grey_entropy"],
        "nats",
    )


def of_reconstructions(
    measured: dict[str, np.ndarray],
    codes: np.ndarray,
    rate: np.ndarray,
    labels: np.ndarray | None,
) -> list[Attribute]:
    """Attributes of N images and their reconstructions.

    Args:
      measured: by `measure_images` and `measure_pairs`.
      codes: posterior means, [N, D].
      rate: nats, [N].
      labels: [N] or None.
    """
    attributes = [
        _lost_texture(measured),
        *_of_images(measured),
        Attribute("rate", "rate outlier", "rate", rate, "nats"),
    ]
    k = min(NUM_CODES, len(codes) - 1)
    if k:
        attributes += _of_neighbours(*nearest_neighbours(codes, codes, k, True), labels)
    if labels is not None:
        attributes.append(
            Attribute(
                "class_share",
                "rare class",
                "size of the class, an even share being 1",
                measures.class_share(labels),
                "x",
                is_low=True,
                limit=0.5,
            )
        )
    return attributes


def _of_neighbours(
    indices: np.ndarray, distances: np.ndarray, labels: np.ndarray | None
) -> list[Attribute]:
    """Attributes by the k nearest other codes, [N, k]."""
    k = indices.shape[1]
    attributes = [
        Attribute(
            "latent_distance",
            LATENT_FAR,
            f"distance of E[z|x] to the {_ordinal(k)} nearest other, in medians",
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
                f"nearest {k} codes of other classes",
                others.astype(float),
                f"of {k}",
                limit=k / 2.0,
            )
        )
    return attributes


def _in_medians(values: np.ndarray) -> np.ndarray:
    """In units of their median, where that is not 0."""
    median = np.median(values)
    return values / median if median > 0 else values


def _ordinal(k: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(k, f"{k}th")


def of_samples(
    measured: dict[str, np.ndarray],
    real_fine_power: float,
    prior_hole: np.ndarray,
    sparsity: np.ndarray,
    blend: tuple[np.ndarray, np.ndarray] | None,
    dataset: str,
) -> list[Attribute]:
    """Attributes of N samples.

    Args:
      measured: by `measure_images`.
      real_fine_power: mean of the real images.
      prior_hole: log p(z) - log of the aggregate posterior at z, nats, [N].
      sparsity: distance of the nearest real image to its own nearest others, any unit, [N].
      blend: by `metrics.attributes.blend`, or None.
      dataset: whose classes they are.
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
            "distance of the nearest image to its own 3rd nearest, in medians",
            _in_medians(sparsity),
            "x",
        ),
        *_of_images(measured),
    ]
    if real_fine_power > 0:
        attributes.append(
            Attribute(
                "fine_power",
                "fine texture lost",
                f"spectrum above {measures.FINE_CYCLES} cycles, of the data's energy",
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
                "distance to the middle of two classes' nearest images, that of one class being 1",
                ratio,
                is_low=True,
                limit=1.0,
                detail=detail,
            )
        )
    return attributes
