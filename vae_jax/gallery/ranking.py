"""By what images are ranked."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vae_jax.data import Split
from vae_jax.gallery.classes import class_name
from vae_jax.gallery.hypotheses import Attribute

Pair = tuple[np.ndarray, np.ndarray]  # images uint8 [H, W, C]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates with a score, what was measured of them, and how they are shown.

    Attributes:
      name: 'worst_reconstructions', of the picture's file too.
      heading: 'Worst reconstructions by distortion'.
      candidates: in words, 'test images'.
      sides: what is on the left and on the right of a pair, in a word or two each.
      description: of score and pictures, in whole sentences.
      score, unit: in words, 'distortion', 'nats'.
      values: the scores, [N].
      attributes: all that were measured.
      describe: row -> what else there is to say, by name: {'image': row in the file, ...}.
      show: rows -> pairs of images.
      is_low: small scores are the worst.
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
        """Larger is worse, [N]."""
        return -self.values if self.is_low else self.values

    @property
    def median(self) -> float:
        """Of the score over all candidates."""
        return float(np.median(self.values))


def labels_of(split: Split) -> np.ndarray | None:
    """[N], or None where there are none."""
    return None if split.labels is None else np.asarray(split.labels[split.indices])


def describe_image(split: Split, dataset: str, row: int, what: str = "image") -> dict:
    """{'image': row in the file, 'class': its name}, the latter where there are labels."""
    index = int(split.indices[row])
    if split.labels is None:
        return {what: index}
    return {what: index, "class": class_name(dataset, int(split.labels[index]))}
