"""Tests of vae_jax/gallery/hypotheses.py: when an attribute may explain a failure."""

import dataclasses

import numpy as np
import pytest

from vae_jax.gallery import hypotheses
from vae_jax.gallery.hypotheses import Attribute

N = 400


def make_attribute(values, name: str = "thin", **options) -> Attribute:
    return Attribute(name, f"{name} things", f"{name}ness", np.asarray(values, float), **options)


def normal(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def worst(badness: np.ndarray, n: int = 16) -> np.ndarray:
    return np.argsort(-badness)[:n]


# Standing out


def test_the_largest_twentieth_stands_out():
    attribute = make_attribute(np.arange(100.0))
    assert attribute.median == 49.5
    assert attribute.threshold == pytest.approx(0.95 * 99)  # linear between order statistics
    np.testing.assert_array_equal(np.flatnonzero(attribute.is_tail), np.arange(95, 100))


def test_the_smallest_twentieth_stands_out_where_small_values_do():
    attribute = make_attribute(np.arange(100.0), is_low=True)
    assert attribute.threshold == pytest.approx(0.05 * 99)
    np.testing.assert_array_equal(np.flatnonzero(attribute.is_tail), np.arange(5))


@pytest.mark.parametrize(
    ("is_low", "limit", "rows"),
    [
        (False, 97.5, [98, 99]),
        (False, 50.0, range(95, 100)),
        (False, 200.0, []),
        (True, 2.5, [0, 1, 2]),
        (True, 50.0, range(5)),
    ],
)
def test_a_limit_only_makes_the_threshold_stricter(is_low, limit, rows):
    attribute = make_attribute(np.arange(100.0), is_low=is_low, limit=limit)
    np.testing.assert_array_equal(np.flatnonzero(attribute.is_tail), list(rows))


@pytest.mark.parametrize("is_low", [False, True])
def test_nobody_stands_out_in_a_shared_value(is_low):
    values = np.zeros(100)
    assert not make_attribute(values, is_low=is_low).is_tail.any()
    values[7] = -1.0 if is_low else 1.0
    np.testing.assert_array_equal(
        np.flatnonzero(make_attribute(values, is_low=is_low).is_tail), [7]
    )


# Being worth a hypothesis


def test_share_of_pairs_by_loops():
    badness = np.round(normal(0, 60), 1)  # with ties
    attribute = make_attribute(normal(1, 60) + badness)
    failures = worst(badness, 5)
    rest = [i for i in range(60) if i not in failures]
    pairs = [
        (badness[i] > badness[j]) + 0.5 * (badness[i] == badness[j])
        for i in rest
        if attribute.is_tail[i]
        for j in rest
        if not attribute.is_tail[j]
    ]
    found = hypotheses.share_worse(attribute, badness, failures)
    assert len(pairs) > 50 and found == pytest.approx(np.mean(pairs), rel=1e-12)


def test_attribute_that_goes_with_failure_is_offered():
    badness = normal(0)
    attribute = make_attribute(badness + normal(1))
    assert hypotheses.is_offered(attribute, badness, worst(badness))
    assert hypotheses.is_offered(
        dataclasses.replace(attribute, values=-attribute.values, is_low=True),
        badness,
        worst(badness),
    )


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_attribute_of_easy_images_or_without_effect_is_not_offered(sign):
    badness = normal(0)
    seeds = range(20)
    offered = [
        hypotheses.is_offered(
            make_attribute(sign * badness + normal(1 + s)), badness, worst(badness)
        )
        for s in seeds
    ]
    assert sum(offered) <= 3  # by chance: two standard errors are 2.3% of one side


def test_attribute_that_only_the_failures_have_proves_nothing():
    badness = normal(0)
    values = np.zeros(N)
    values[worst(badness)[:6]] = 1.0
    attribute = make_attribute(values)
    assert hypotheses.share_worse(attribute, badness, worst(badness)) is None
    assert not hypotheses.is_offered(attribute, badness, worst(badness))


@pytest.mark.parametrize("n", [1, 2, 20])
def test_among_few_candidates_nothing_is_significant(n):
    badness = np.arange(float(n))
    attribute = make_attribute(badness)
    for num_failures in (1, n):
        failures = worst(badness, num_failures)
        assert not hypotheses.is_offered(attribute, badness, failures)


# The hypothesis


def test_each_candidate_is_explained_by_what_it_stands_out_in():
    badness = normal(0)
    first, second = make_attribute(normal(1), "first"), make_attribute(normal(2), "second")
    explanations = hypotheses.explain([first, second], badness)
    for row, found in enumerate(explanations):
        assert {a.name for a in found} == {a.name for a in (first, second) if a.is_tail[row]}
    assert any(len(found) == 2 for found in explanations)


def test_the_stronger_cause_comes_first_also_where_the_fainter_is_rarer():
    badness = np.arange(float(N))
    # All images with `strong` are bad; the median of those with `faint` is near the middle.
    strong = np.where(badness >= N - 20, 1.0 + badness / N, 0.0)
    faint = np.zeros(N)
    faint[20::20] = np.arange(1.0, 20.0)
    both = N - 1
    faint[both] = 100.0  # no other value is as extreme
    explanations = hypotheses.explain(
        [make_attribute(faint, "faint"), make_attribute(strong, "strong")], badness
    )
    assert [a.name for a in explanations[both]] == ["strong", "faint"]


def test_order_by_loops():
    badness = normal(0)
    ranks = {row: rank for rank, row in enumerate(np.argsort(badness))}
    attributes = [make_attribute(normal(s) + s * badness, f"{s}") for s in range(1, 4)]
    attributes += [make_attribute(-normal(9) - badness, "low", is_low=True)]

    def strength(attribute, row):
        values = -attribute.values if attribute.is_low else attribute.values
        by_extremeness = sorted(range(N), key=lambda i: -values[i])
        num_alike = max(10, sum(values >= values[row]))
        return np.median([ranks[i] for i in by_extremeness[:num_alike]])

    explanations = hypotheses.explain(attributes, badness)
    for row, found in enumerate(explanations):
        strengths = [strength(a, row) for a in found]
        assert strengths == sorted(strengths, reverse=True)
    assert max(map(len, explanations)) == 4


# Counts


@pytest.fixture
def explained():
    badness = normal(0)
    attributes = [
        make_attribute(badness + normal(1), "a"),
        make_attribute(-badness + normal(2), "b", is_low=True),
    ]
    return badness, attributes, hypotheses.explain(attributes, badness)


def test_groups_add_up_to_the_failures(explained):
    badness, _, explanations = explained
    failures = worst(badness, 40)
    groups = hypotheses.group(explanations, failures, badness)
    assert sorted(np.concatenate([g.rows for g in groups])) == sorted(failures)
    assert groups[-1].attribute is None and len(groups) == 3
    sizes = [len(g.rows) for g in groups[:-1]]
    assert sizes == sorted(sizes, reverse=True)
    for g in groups:
        assert list(g.rows) == [row for row in failures if row in g.rows]  # worst first
        assert {(explanations[row] or [None])[0] for row in g.rows} == {g.attribute}


def test_expected_counts_are_those_of_all_candidates(explained):
    badness, _, explanations = explained
    groups = hypotheses.group(explanations, worst(badness, 40), badness)
    for g in groups:
        num_alike = sum((found or [None])[0] is g.attribute for found in explanations)
        assert g.num_expected == pytest.approx(40 * num_alike / N)
    assert sum(g.num_expected for g in groups) == pytest.approx(40)  # groups cover all candidates
    assert all(len(g.rows) > 2 * g.num_expected for g in groups if g.attribute)
    everything = hypotheses.group(explanations, np.arange(N), badness)
    for g in everything:  # as expected if all are chosen
        assert g.num_expected == pytest.approx(len(g.rows))


def test_groups_carry_their_medians(explained):
    badness, _, explanations = explained
    for g in hypotheses.group(explanations, worst(badness, 40), badness)[:-1]:
        assert g.median == np.median(g.attribute.values[g.rows])
        assert g.tail_score == np.median(badness[g.attribute.is_tail])
        assert g.other_score == np.median(badness[~g.attribute.is_tail])


def test_failures_without_explanation_are_one_group():
    (g,) = hypotheses.group([[], [], []], np.array([2, 0]), np.arange(3.0))
    assert g.attribute is None and list(g.rows) == [2, 0] and g.num_expected == 2
