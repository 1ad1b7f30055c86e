"""Hypotheses about failures: measured attributes in which a failure stands out among all images.

Four rules keep chance out, or make it visible:

1. The failure must be beyond the 95th percentile of all candidates in the attribute.
2. Candidates beyond that percentile must be worse than the others, in at least 60% of the pairs and
   significantly so. The failures themselves are left out of this test. The rule excludes attributes
   that make other images easy, and attributes that only the failures have.
3. If a failure stands out in several attributes, the hypothesis is the attribute whose equally
   extreme candidates are worst.
4. Any image may be extreme in something. The rules are therefore applied to all candidates, and the
   expected number among as many randomly picked candidates is reported with each hypothesis.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

TAIL = 0.05  # share of the candidates that stand out
MIN_WORSE = 0.6  # share of the pairs
NUM_STANDARD_ERRORS = 2.0  # above one half of the pairs
NUM_ALIKE = 10  # candidates, at least, that are treated as equally extreme


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """A number that was measured for every candidate.

    Attributes:
      name: key for programs, such as 'fine_power_lost'.
      hypothesis: what an extreme value suggests, such as 'fine texture lost'.
      measure: what was measured, in words.
      values: the measured values, [N].
      unit: '%' (the values are shares), 'x' (multiples), 'nats', 'of 10', or '' for a plain number.
      is_low: whether small values stand out rather than large ones.
      limit: second threshold that a value must pass to stand out; None: there is none.
      detail: maps rows to additional words about these candidates.
      short: short form of the hypothesis for captions; empty: the hypothesis itself is used.
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
        """Median over all candidates."""
        return float(np.median(self.values))

    @property
    def threshold(self) -> float:
        """The percentile, or the limit if that is stricter."""
        threshold = float(np.quantile(self.values, TAIL if self.is_low else 1.0 - TAIL))
        if self.limit is None:
            return threshold
        return min(threshold, self.limit) if self.is_low else max(threshold, self.limit)

    @property
    def is_tail(self) -> np.ndarray:
        """Whether each candidate stands out, bool [N]."""
        return self.values < self.threshold if self.is_low else self.values > self.threshold

    @property
    def extremeness(self) -> np.ndarray:
        """The values, with the sign for which larger stands out more, [N]."""
        return -self.values if self.is_low else self.values


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Failures with the same hypothesis.

    Attributes:
      attribute: attribute of the hypothesis; None: the failures stand out in no attribute.
      rows: rows of the failures among the candidates, worst first.
      num_expected: expected size of the group if as many candidates were picked at random.
      median: median of the attribute over the group; None without an attribute.
      tail_score, other_score: median score of all candidates that stand out in the attribute, and
        of those that do not; None without an attribute.
    """

    attribute: Attribute | None
    rows: np.ndarray
    num_expected: float
    median: float | None = None
    tail_score: float | None = None
    other_score: float | None = None


def share_worse(attribute: Attribute, badness: np.ndarray, failures: np.ndarray) -> float | None:
    """Returns the share of pairs in which a candidate that stands out is worse than another one.

    This is the statistic of the rank-sum test (Mann & Whitney 1947), with ties counted half. The
    failures are left out, so that what they have in common is tested on other candidates.

    Args:
      attribute: an attribute of N candidates.
      badness: larger is worse, [N].
      failures: rows of the failures.

    Returns:
      The share, or None if there are no pairs.
    """
    tail, others = _split(attribute, badness, failures)
    if not len(tail) or not len(others):
        return None
    ranks = _ranks(np.concatenate([tail, others]))[: len(tail)]
    return float((ranks.mean() - (len(tail) + 1) / 2.0) / len(others))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks of the values, from 1 on; equal values share the mean of theirs."""
    from scipy.stats import rankdata  # takes half a second, which most commands need not spend

    return rankdata(values)


def _split(
    attribute: Attribute, badness: np.ndarray, failures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the badness of candidates that stand out and of the others, without the failures."""
    is_tail = np.delete(attribute.is_tail, failures)
    rest = np.delete(badness, failures)
    return rest[is_tail], rest[~is_tail]


def is_offered(attribute: Attribute, badness: np.ndarray, failures: np.ndarray) -> bool:
    """Whether the attribute qualifies as a hypothesis: candidates that stand out in it are worse.

    With few candidates none qualifies: a single one that stands out among 20 cannot be
    significantly worse.
    """
    worse = share_worse(attribute, badness, failures)
    if worse is None:
        return False
    tail, others = (len(part) for part in _split(attribute, badness, failures))
    standard_error = np.sqrt((tail + others + 1) / (12.0 * tail * others))
    return bool(worse >= max(MIN_WORSE, 0.5 + NUM_STANDARD_ERRORS * standard_error))


def explain(attributes: Sequence[Attribute], badness: np.ndarray) -> list[list[Attribute]]:
    """Returns, for each candidate, the attributes in which it stands out.

    They are sorted by the median badness rank of the candidates that are as extreme, including the
    candidate itself, worst first. Rarity alone would put a weak cause before a strong one.

    Args:
      attributes: attributes of N candidates.
      badness: larger is worse, [N].
    """
    ranks = _ranks(badness)
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
    """Groups the failures by hypothesis: the largest group first, failures without one last.

    Args:
      explanations: attributes of all candidates, from `explain`.
      failures: rows of the failures, worst first.
      scores: scores of all candidates, [N].
    """
    hypotheses = [found[0] if found else None for found in explanations]
    groups = []
    for attribute in dict.fromkeys(hypotheses[row] for row in failures):
        rows = np.array([row for row in failures if hypotheses[row] is attribute])
        num_candidates = sum(a is attribute for a in hypotheses)
        num_expected = len(failures) * num_candidates / len(hypotheses)
        if attribute is None:
            groups.append(Group(None, rows, num_expected))
            continue
        is_tail = attribute.is_tail
        medians = (attribute.values[rows], scores[is_tail], scores[~is_tail])
        groups.append(Group(attribute, rows, num_expected, *(float(np.median(m)) for m in medians)))
    return sorted(groups, key=lambda g: (g.attribute is None, -len(g.rows)))
