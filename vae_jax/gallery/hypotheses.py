"""What may be behind failures: measured attributes in which each stands out among all images.

Four rules keep chance out, or show it. The attribute must lie beyond the 95th percentile of all
candidates. Among the candidates that are not shown, one that is beyond it must be worse than one
that is not in 60% of the pairs, and significantly: nobody is told that an image failed for what
makes others easy, or for what only the failures have. Of several attributes the hypothesis is the
one in which the candidates as extreme as the failure are worst. And since any image may be extreme
in something, the same rules are applied to all candidates: how many of as many picked at random
would have a hypothesis stands beside how many failures have it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

TAIL = 0.05  # of the candidates, those that stand out
MIN_WORSE = 0.6  # of the pairs
NUM_STANDARD_ERRORS = 2.0  # from a half of the pairs
NUM_ALIKE = 10  # candidates that are as extreme as another, or more if there are more


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """A number measured of every candidate.

    Attributes:
      name: a key for machines, 'fine_power_lost'.
      hypothesis: what it suggests where it stands out, 'fine texture lost'.
      measure: what was measured, in words.
      values: [N].
      unit: '%' (the values are shares), 'x' (multiples), 'nats', 'of 10', or '' for a plain number.
      is_low: small values are those that stand out, not large ones.
      limit: that a value must exceed besides (or stay below), where one is known.
      detail: more in words about the candidates of some rows.
      short: the hypothesis where there is little room.
    """

    name: str
    hypothesis: str
    measure: str
    values: np.ndarray
    unit: str = ""
    is_low: bool = False
    limit: float | None = None
    detail: Callable[[np.ndarray], str] = lambda rows: ""
    short: str = ""

    @property
    def median(self) -> float:
        """Over all candidates."""
        return float(np.median(self.values))

    @property
    def threshold(self) -> float:
        """The percentile, or the limit where that is stricter."""
        threshold = float(np.quantile(self.values, TAIL if self.is_low else 1.0 - TAIL))
        if self.limit is None:
            return threshold
        return min(threshold, self.limit) if self.is_low else max(threshold, self.limit)

    @property
    def is_tail(self) -> np.ndarray:
        """Which candidates stand out, [N]."""
        return self.values < self.threshold if self.is_low else self.values > self.threshold

    @property
    def extremeness(self) -> np.ndarray:
        """Larger stands out more, [N]."""
        return -self.values if self.is_low else self.values


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Failures with the same hypothesis.

    Attributes:
      attribute: that of the hypothesis; None: no attribute stands out.
      rows: of the failures among the candidates, worst first.
      num_expected: how many of as many candidates picked at random would be in the group.
      median: of the attribute over the group; None without attribute.
      tail_score, other_score: medians of the score over all candidates that stand out in the
        attribute, and over those that do not; None without attribute.
    """

    attribute: Attribute | None
    rows: np.ndarray
    num_expected: float
    median: float | None = None
    tail_score: float | None = None
    other_score: float | None = None


def share_worse(attribute: Attribute, badness: np.ndarray, failures: np.ndarray) -> float | None:
    """Of the pairs of a candidate that stands out and one that does not, those where it is worse.

    The statistic of the rank-sum test (Mann & Whitney 1947), ties counted half; None where there
    are no pairs. The failures are left out: what they have in common is to be tested on others.

    Args:
      attribute: of N candidates.
      badness: larger is worse, [N].
      failures: their rows.
    """
    tail, others = _split(attribute, badness, failures)
    if not len(tail) or not len(others):
        return None
    ranks = rankdata(np.concatenate([tail, others]))[: len(tail)]
    return float((ranks.mean() - (len(tail) + 1) / 2.0) / len(others))


def _split(
    attribute: Attribute, badness: np.ndarray, failures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The badness of those that stand out and of those that do not, without the failures'."""
    is_tail = np.delete(attribute.is_tail, failures)
    rest = np.delete(badness, failures)
    return rest[is_tail], rest[~is_tail]


def is_offered(attribute: Attribute, badness: np.ndarray, failures: np.ndarray) -> bool:
    """Whether the attribute is worth a hypothesis: the candidates that stand out in it are worse.

    Never where there are few candidates: one that stands out among 20 cannot be so significantly.
    """
    worse = share_worse(attribute, badness, failures)
    if worse is None:
        return False
    tail, others = (len(part) for part in _split(attribute, badness, failures))
    standard_error = np.sqrt((tail + others + 1) / (12.0 * tail * others))
    return bool(worse >= max(MIN_WORSE, 0.5 + NUM_STANDARD_ERRORS * standard_error))


def explain(attributes: Sequence[Attribute], badness: np.ndarray) -> list[list[Attribute]]:
    """For each candidate the attributes in which it stands out.

    First the one in which those that are as extreme, the candidate itself among them, are worst:
    by their median rank. Rarity alone would put a faint cause before a strong one.

    Args:
      attributes: of N candidates.
      badness: larger is worse, [N].
    """
    ranks = rankdata(badness)
    found: list[list[tuple[float, Attribute]]] = [[] for _ in ranks]
    for attribute in attributes:
        extremeness = attribute.extremeness
        tail = np.flatnonzero(attribute.is_tail)
        tail = tail[np.argsort(-extremeness[tail], kind="stable")]
        for row in tail:
            num_alike = (extremeness[tail] >= extremeness[row]).sum()
            alike = tail[: max(num_alike, NUM_ALIKE)]
            found[row].append((float(np.median(ranks[alike])), attribute))
    return [[a for _, a in sorted(pairs, key=lambda pair: -pair[0])] for pairs in found]


def group(
    explanations: Sequence[Sequence[Attribute]], failures: np.ndarray, scores: np.ndarray
) -> list[Group]:
    """Groups of the failures by hypothesis: the largest first, those without one last.

    Args:
      explanations: of all candidates, from `explain`.
      failures: rows of the failures, worst first.
      scores: of all candidates, [N].
    """
    first = [found[0] if found else None for found in explanations]
    groups = []
    for attribute in dict.fromkeys(first[row] for row in failures):
        rows = np.array([row for row in failures if first[row] is attribute])
        num_expected = len(failures) * sum(a is attribute for a in first) / len(first)
        if attribute is None:
            groups.append(Group(None, rows, num_expected))
            continue
        is_tail = attribute.is_tail
        medians = (attribute.values[rows], scores[is_tail], scores[~is_tail])
        groups.append(Group(attribute, rows, num_expected, *(float(np.median(m)) for m in medians)))
    return sorted(groups, key=lambda g: (g.attribute is None, -len(g.rows)))
