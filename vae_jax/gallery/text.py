"""Failures in words and numbers: captions, Markdown and JSON."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vae_jax.gallery.failures import Failure, FailureSet
from vae_jax.gallery.hypotheses import MIN_WORSE, Attribute, Group, share_worse
from vae_jax.recording.tables import Table

TITLE = "Failure gallery"
NOTHING = "no measured attribute stands out"
HOW_TO_READ = (
    "A hypothesis is a measured attribute in which the failure is beyond the 95th percentile of "
    "all candidates. It is offered only if candidates beyond this percentile are generally worse: "
    f"worse than the other candidates in at least {MIN_WORSE:.0%} of all pairs, not counting the "
    "failures shown here. If a failure has several such attributes, its hypothesis is the one "
    "whose equally extreme candidates are worst. For comparison, each count comes with the number "
    "expected among as many candidates picked at random. A hypothesis is a correlation with "
    "failure, not a proven cause."
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A gallery in words.

    Attributes:
      name: name of the picture.
      heading: heading of the section.
      description: what is shown, in whole sentences.
      groups: for each hypothesis, how many failures have it, and the evidence that follows.
      not_offered: which measured attributes do not qualify as hypotheses; may be empty.
      table: table of the failures.
    """

    name: str
    heading: str
    description: str
    groups: Sequence[tuple[str, str]]
    not_offered: str
    table: Table


def format_number(value: float, unit: str) -> str:
    """Formats a value with its unit: '21%', '3.9%', '2.58x', '247 nats', '9 of 10', '1.31'."""
    if unit == "%":
        percent = 100.0 * value
        return f"{percent:.0f}%" if abs(percent) >= 9.95 else f"{percent:.1f}%"
    if unit == "nats":
        return f"{value:,.0f} nats" if abs(value) >= 9.95 else f"{value:.1f} nats"
    if unit not in ("", "x"):
        return f"{value:.0f} {unit}"
    return f"{value:,.1f}{unit}" if abs(value) >= 9.995 else f"{value:.2f}{unit}"


def _short_number(value: float, unit: str) -> str:
    """Formats a value without its unit if that is a word."""
    text = format_number(value, unit)
    return text if unit in ("%", "x") else text.removesuffix(unit).strip()


def _value_and_median(attribute: Attribute, row: int) -> str:
    """Formats a value and the median of all candidates: '41 nats (21)'."""
    value = format_number(attribute.values[row], attribute.unit)
    return f"{value} ({_short_number(attribute.median, attribute.unit)})"


def hypothesis(failure: Failure) -> str:
    """Returns the hypothesis with its numbers, 'rate outlier: 41 nats (21)', and its details."""
    if not failure.explanation:
        return NOTHING
    first = failure.explanation[0]
    details = [_value_and_median(first, failure.row), first.detail(np.array([failure.row]))]
    return f"{first.hypothesis}: {', '.join(filter(None, details))}"


def caption(failure: Failure, rank: int, failures: FailureSet) -> list[str]:
    """Returns the lines below a pair: what it is, score, hypothesis, its number (median of all)."""
    ranking = failures.ranking
    what = str(failure.about.get("class", ""))
    lines = [f"{rank}. {what}".strip(), format_number(failure.score, ranking.unit)]
    if not ranking.unit:
        lines[1] = f"{ranking.score.split()[-1]} {lines[1]}"
    if not failure.explanation:
        return [*lines, "no hypothesis"]
    first = failure.explanation[0]
    return [*lines, first.short or first.hypothesis, _value_and_median(first, failure.row)]


def headline(failures: FailureSet) -> str:
    """Returns the headline of the picture."""
    ranking = failures.ranking
    return (
        f"{ranking.heading}: {len(failures.failures)} of {len(ranking.values):,} "
        f"{ranking.candidates}; the median of all is "
        f"{format_number(ranking.median, ranking.unit)}. Left: {ranking.sides[0]}, right: "
        f"{ranking.sides[1]}. Numbers in brackets are medians of all {ranking.candidates}."
    )


def _describe_group(group: Group, failures: FailureSet) -> tuple[str, str]:
    """Returns how many failures have the hypothesis of the group, and the evidence for it."""
    ranking, num = failures.ranking, len(failures.failures)
    count = f"{len(group.rows)} of {num}"
    at_random = f"{group.num_expected:.1f} of {num} at random"
    if group.attribute is None:
        return f"{count}: {NOTHING}", f" ({at_random})"
    a = group.attribute
    assert group.median is not None  # as for every group with an attribute
    assert group.tail_score is not None and group.other_score is not None
    remarks = "; ".join(filter(None, [a.detail(group.rows), at_random]))
    side = "below" if a.is_low else "above"
    tail, other = (format_number(v, ranking.unit) for v in (group.tail_score, group.other_score))
    return f"{count}: {a.hypothesis}", (
        f" ({remarks}). {a.measure[:1].upper()}{a.measure[1:]}: the median is "
        f"{format_number(group.median, a.unit)}, against {format_number(a.median, a.unit)} for "
        f"all candidates. The {a.is_tail.sum():,} {ranking.candidates} {side} "
        f"{format_number(a.threshold, a.unit)} have a median {ranking.score} of {tail}, the "
        f"others of {other}."
    )


def _table(failures: FailureSet) -> Table:
    """Returns the table with a row for each failure."""
    ranking = failures.ranking
    unit = f", {ranking.unit}" if ranking.unit else ""
    names = failures.failures[0].about
    score = f"{ranking.score}{unit}"
    titles = ("", *names, score, "hypothesis (median of all)", "also stands out in")
    rows = []
    for i, failure in enumerate(failures.failures, start=1):
        others = "; ".join(
            f"{a.hypothesis}: {_value_and_median(a, failure.row)}" for a in failure.explanation[1:]
        )
        score = _short_number(failure.score, ranking.unit)
        about = [
            format_number(v, "") if isinstance(v, float) else str(v) for v in failure.about.values()
        ]
        rows.append((str(i), *about, score, hypothesis(failure), others))
    return Table(titles, rows)


def describe(failures: FailureSet) -> Section:
    """Describes a gallery in words."""
    ranking = failures.ranking
    return Section(
        name=ranking.name,
        heading=ranking.heading,
        description=f"{len(failures.failures)} of {len(ranking.values):,} {ranking.candidates}; "
        f"median {ranking.score} of all: {format_number(ranking.median, ranking.unit)}. "
        f"{ranking.description}",
        groups=[_describe_group(group, failures) for group in failures.groups],
        not_offered=_not_offered(failures),
        table=_table(failures),
    )


def markdown(sections: Sequence[Section]) -> list[str]:
    """Returns the Markdown lines of all galleries. The pictures are images/NAME.png."""
    if not sections:
        return []
    lines = [f"## {TITLE}", "", HOW_TO_READ, ""]
    for section in sections:
        lines += [f"### {section.heading}", "", section.description, ""]
        lines += [f"- **{count}**{evidence}" for count, evidence in section.groups]
        lines += ["", *([section.not_offered, ""] if section.not_offered else [])]
        lines += [f"![{section.heading}](images/{section.name}.png)", ""]
        lines += section.table.to_markdown()
    return lines


def _not_offered(failures: FailureSet) -> str:
    """Names the attributes that do not qualify, with the share that decided; may be empty."""
    ranking = failures.ranking
    worse = {
        a.hypothesis: share_worse(a, ranking.badness, failures.rows)
        for a in ranking.attributes
        if a not in failures.offered
    }
    if not worse:
        return ""
    described = (
        f"{name} (none stands out)" if share is None else f"{name} ({share:.0%})"
        for name, share in worse.items()
    )
    return (
        "Measured, but not offered as hypotheses, with the share of the pairs in which a candidate "
        f"that stands out is worse: {', '.join(described)}."
    )


def to_json(failures: FailureSet) -> dict:
    """Returns everything but the images, for `files.write_json`."""
    ranking = failures.ranking

    def attribute(a: Attribute) -> dict:
        return {
            "hypothesis": a.hypothesis,
            "measure": a.measure,
            "unit": a.unit,
            "median": float(a.median),
            "threshold": float(a.threshold),
            "is_low": a.is_low,
            "share_worse": share_worse(a, ranking.badness, failures.rows),
            "is_offered": a in failures.offered,
        }

    return {
        "name": ranking.name,
        "heading": ranking.heading,
        "score": ranking.score,
        "unit": ranking.unit,
        "candidates": ranking.candidates,
        "num_candidates": len(ranking.values),
        "median_score": float(ranking.median),
        "attributes": {a.name: attribute(a) for a in ranking.attributes},
        "groups": [
            {
                "attribute": group.attribute.name if group.attribute else None,
                "hypothesis": group.attribute.hypothesis if group.attribute else NOTHING,
                "num_failures": len(group.rows),
                "num_expected": group.num_expected,
                "median": group.median,
            }
            for group in failures.groups
        ],
        "failures": [
            {
                **failure.about,
                "score": float(failure.score),
                "hypothesis": hypothesis(failure),
                "stands_out_in": [a.name for a in failure.explanation],
                "attributes": {a.name: float(a.values[failure.row]) for a in ranking.attributes},
            }
            for failure in failures.failures
        ],
    }
