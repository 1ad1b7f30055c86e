"""The worst of each ranking, with what may be behind it."""

import dataclasses

import numpy as np

from vae_jax.data import Split
from vae_jax.errors import InputError
from vae_jax.gallery import hypotheses
from vae_jax.gallery.hypotheses import Attribute, Group
from vae_jax.gallery.ranking import Pair, Ranking
from vae_jax.gallery.reconstructions import rank_reconstructions
from vae_jax.gallery.samples import rank_samples
from vae_jax.inference import TrainedVAE, image_sets

MAX_NUM_FAILURES = 100  # more is no gallery


@dataclasses.dataclass(frozen=True, eq=False)
class Failure:
    """One of the worst candidates.

    Attributes:
      row: among the candidates.
      score: of the ranking.
      about: see `Ranking.describe`.
      explanation: the attributes in which it stands out; the first is the hypothesis.
      pair: the images, see `Ranking.sides`.
    """

    row: int
    score: float
    about: dict[str, int | float | str]
    explanation: list[Attribute]
    pair: Pair


@dataclasses.dataclass(frozen=True, eq=False)
class FailureSet:
    """The worst by one ranking.

    Attributes:
      ranking: of all candidates.
      failures: worst first.
      offered: the measured attributes that may be hypotheses.
      groups: the failures by hypothesis.
    """

    ranking: Ranking
    failures: list[Failure]
    offered: list[Attribute]
    groups: list[Group]

    @property
    def rows(self) -> np.ndarray:
        """Of the failures among the candidates."""
        return np.array([failure.row for failure in self.failures])


def check_num_failures(num_failures: int) -> None:
    """Raises a ValueError where there cannot be so many."""
    if not 0 <= num_failures <= MAX_NUM_FAILURES:
        raise InputError(
            f"num_failures = {num_failures} must lie in [0, {MAX_NUM_FAILURES}]; 0: no gallery."
        )


def create(
    vae: TrainedVAE,
    split: Split,
    num_failures: int,
    features: image_sets.Features | None = None,
) -> list[FailureSet]:
    """The worst reconstructions of a split and the worst samples, by each score that can be had.

    Args:
      vae: the model.
      split: whose images are reconstructed, the first 10,000 in the evaluation's order.
      num_failures: of each kind; all candidates where there are less.
      features: where there are any, `split` being the test split: reconstructions are ranked by
        their distance in features too, and samples in features instead of pixels.

    Raises:
      NotFiniteError: the model gives numbers that are not finite.
    """
    check_num_failures(num_failures)
    if not num_failures:
        return []
    rankings = [*rank_reconstructions(vae, split, features), *rank_samples(vae, features)]
    return [choose(ranking, num_failures) for ranking in rankings]


def choose(ranking: Ranking, num_failures: int) -> FailureSet:
    """The worst of a ranking, explained and grouped."""
    badness = ranking.badness
    rows = np.argsort(-badness, kind="stable")[:num_failures]
    offered = [a for a in ranking.attributes if hypotheses.is_offered(a, badness, rows)]
    explanations = hypotheses.explain(offered, badness)
    failures = [
        Failure(
            int(row), float(ranking.values[row]), ranking.describe(row), explanations[row], pair
        )
        for row, pair in zip(rows, ranking.show(rows), strict=True)
    ]
    groups = hypotheses.group(explanations, rows, ranking.values)
    return FailureSet(ranking, failures, offered, groups)
