"""The worst candidates of each ranking, with hypotheses about the cause."""

import dataclasses

import numpy as np

from vae_jax.data import Split
from vae_jax.gallery import hypotheses
from vae_jax.gallery.hypotheses import Attribute, Group
from vae_jax.gallery.ranking import Pair, Ranking
from vae_jax.gallery.reconstructions import rank_reconstructions
from vae_jax.gallery.samples import rank_samples
from vae_jax.inference import TrainedVAE, arguments, image_sets

MAX_NUM_FAILURES = 100  # more would be of no use


@dataclasses.dataclass(frozen=True, eq=False)
class Failure:
    """One of the worst candidates.

    Attributes:
      row: its row among the candidates.
      score: its score in the ranking.
      about: what identifies it, see `Ranking.describe`.
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
    """The worst candidates of one ranking.

    Attributes:
      ranking: the ranking of all candidates.
      failures: the worst candidates, worst first.
      offered: the measured attributes that qualify as hypotheses.
      groups: the failures grouped by hypothesis.
    """

    ranking: Ranking
    failures: list[Failure]
    offered: list[Attribute]
    groups: list[Group]

    @property
    def rows(self) -> np.ndarray:
        """Rows of the failures among the candidates."""
        return np.array([failure.row for failure in self.failures])


def check_num_failures(num_failures: int) -> None:
    """Raises an InputError unless num_failures is an integer in its range; 0 makes no gallery."""
    arguments.count("num_failures", num_failures, 0, MAX_NUM_FAILURES)


def create(
    vae: TrainedVAE,
    split: Split,
    num_failures: int,
    features: image_sets.Features | None = None,
) -> list[FailureSet]:
    """Returns the worst reconstructions of a split and the worst samples, by every possible score.

    Args:
      vae: the model.
      split: split whose images are reconstructed, the first 10,000 in the evaluation's order.
      num_failures: failures per ranking; all candidates if there are fewer.
      features: features of the test split, if `split` is that and they are available. They add a
        ranking of reconstructions by distance in feature space, and samples are ranked in feature
        space instead of pixel space.

    Raises:
      InputError: num_failures is out of range.
      NotFiniteError: the model gives numbers that are not finite.
    """
    check_num_failures(num_failures)
    if not num_failures:
        return []
    rankings = [*rank_reconstructions(vae, split, features), *rank_samples(vae, features)]
    return [choose(ranking, num_failures) for ranking in rankings]


def choose(ranking: Ranking, num_failures: int) -> FailureSet:
    """Returns the worst candidates of a ranking, explained and grouped."""
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
