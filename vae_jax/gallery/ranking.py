"""Rankings of images, and what a gallery says about each image."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vae_jax.data import Split, class_name
from vae_jax.gallery.hypotheses import Attribute

# Names of all rankings, and of their pictures.
PICTURES = ("worst_reconstructions", "worst_excess", "worst_perceptual", "worst_samples")
Pair = tuple[np.ndarray, np.ndarray]  # images uint8 [H, W, C]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates with a score, their measured attributes, and how they are shown.

    Attributes:
      name: identifier and file name of the picture, such as 'worst_reconstructions'.
      heading: heading of the gallery, such as 'Worst reconstructions by distortion'.
      candidates: what is ranked, in words, such as 'test images'.
      sides: what a pair shows on the left and on the right, in a few words each.
      description: explanation of the score and the pictures, in whole sentences.
      score, unit: name and unit of the score, such as 'distortion' and 'nats'.
      values: the scores, [N].
      attributes: all measured attributes.
      describe: row -> what identifies the candidate, by name: {'image': row in the file, ...}.
      show: rows -> pairs of images.
      is_low: whether small scores are the worst.
    """

    name: str
    heading: str
    candidates: str
    sides: tuple[str, str]
    description: str
    score: str
    unit: str
    values: np.ndarray
    attributes: list[Attribute]
    describe: Callable[[int], dict[str, int | float | str]]
    show: Callable[[np.ndarray], list[Pair]]
    is_low: bool = False

    @property
    def badness(self) -> np.ndarray:
        """The scores, with the sign for which larger is worse, [N]."""
        return -self.values if self.is_low else self.values

    @property
    def median(self) -> float:
        """Median score of all candidates."""
        return float(np.median(self.values))


def labels_of(split: Split) -> np.ndarray | None:
    """Returns the labels of the images of a split, [N], or None if it has none."""
    return None if split.labels is None else split.take_labels(slice(None))


def describe_image(
    split: Split, dataset: str, row: int, what: str = "image"
) -> dict[str, int | float | str]:
    """Returns {'image': row in the file, 'class': its name}, the class only if there are labels."""
    index = int(split.indices[row])
    if split.labels is None:
        return {what: index}
    return {what: index, "class": class_name(dataset, int(split.labels[index]))}
