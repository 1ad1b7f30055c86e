"""Tests of vae_jax/gallery: texts and pictures of failures."""

import json
import re

import numpy as np
import pytest
from PIL import ImageFont

from vae_jax import files, gallery
from vae_jax.gallery import picture, text
from vae_jax.gallery.failures import choose
from vae_jax.gallery.hypotheses import Attribute
from vae_jax.gallery.ranking import Ranking

N, NUM_FAILURES, SIZE = 400, 16, 28
FONT = ImageFont.load_default(size=picture.FONT_SIZE)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N)


def make_images(n: int = N, size: int = SIZE, num_channels: int = 1) -> np.ndarray:
    """Makes images without white, so that they differ from the background."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (n, size, size, num_channels), dtype=np.uint8)


def make_ranking(images=None, scores=None, unit: str = "nats", is_low: bool = False, **options):
    """Makes a ranking with a strong attribute, a weaker one and two unrelated ones."""
    images = make_images() if images is None else images
    scores = 1000 + 100 * normal(0) if scores is None else scores
    badness = -normal(0) if is_low else normal(0)
    n = len(images)
    attributes = [
        Attribute(
            "strong",
            "strong things",
            "strength | of things",
            (badness + normal(1))[:n],
            "nats",
            detail=lambda rows: f"{len(rows)} strong",
        ),
        Attribute("weak", "weak things", "weakness", (normal(2) - 0.9 * badness)[:n], is_low=True),
        Attribute("other", "other things", "otherness", normal(3)[:n], "%"),
        Attribute("same", "same things", "sameness", np.zeros(n), "of 10"),
    ]
    return Ranking(
        **{
            "name": "worst_things",
            "heading": "Worst things",
            "candidates": "test things",
            "sides": ("left thing", "right thing"),
            "description": "What they are.",
            "score": "badness",
            "unit": unit,
            "values": scores,
            "attributes": attributes,
            "describe": lambda row: {"image": 1000 + int(row), "class": f"kind {row % 3}"},
            "show": lambda rows: [(images[row], 200 - images[row]) for row in rows],
            "is_low": is_low,
            **options,
        }
    )


@pytest.fixture(scope="module")
def failures():
    return choose(make_ranking(), NUM_FAILURES)


def test_the_example_has_hypotheses_of_every_kind(failures):
    assert [a.name for a in failures.offered] == ["strong", "weak"]
    assert {g.attribute and g.attribute.name for g in failures.groups} == {"strong", "weak", None}


# Numbers


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.2149, "%", "21%"),
        (0.0391, "%", "3.9%"),
        (0.0996, "%", "10%"),
        (1.0, "%", "100%"),
        (-0.02, "%", "-2.0%"),
        (2.584, "x", "2.58x"),
        (1.0, "x", "1.00x"),
        (247.3, "nats", "247 nats"),
        (8.44, "nats", "8.4 nats"),
        (2345.6, "nats", "2,346 nats"),
        (-1234.5, "nats", "-1,234 nats"),
        (9.0, "of 10", "9 of 10"),
        (0.4416, "", "0.44"),
        (12.34, "", "12.3"),
        (9.996, "", "10.0"),
    ],
)
def test_numbers(value, unit, expected):
    assert text.format_number(value, unit) == expected


# Captions and hypotheses


def test_caption_says_what_how_bad_and_why(failures):
    for rank, failure in enumerate(failures.failures, start=1):
        lines = text.caption(failure, rank, failures)
        assert lines[:2] == [f"{rank}. kind {failure.row % 3}", f"{failure.score:,.0f} nats"]
        if not failure.explanation:
            assert lines[2:] == ["no hypothesis"]
            continue
        first = failure.explanation[0]
        value = text.format_number(first.values[failure.row], first.unit)
        assert lines[2] == first.hypothesis
        assert re.fullmatch(rf"{re.escape(value)} \(-?[\d.]+\)", lines[3])


def test_captions_show_the_last_word_of_scores_without_unit():
    failures = choose(make_ranking(unit="", score="perceptual distance"), 2)
    assert text.caption(failures.failures[0], 1, failures)[1].startswith("distance 1,")


def test_no_hypothesis_without_a_number(failures):
    for failure in failures.failures:
        found = text.hypothesis(failure)
        assert found == text.NOTHING or re.search(r": -?[\d.]+( nats)? \(-?[\d.]+\)", found)
    lines = gallery.markdown([gallery.describe(failures)])
    for line in lines:
        if line.startswith("- **"):
            assert re.match(r"- \*\*\d+ of 16: ", line) and "of 16 at random" in line
            assert text.NOTHING in line or len(re.findall(r"\d+\.\d+", line)) >= 3


def test_medians_are_those_of_all_candidates(failures):
    strong = failures.ranking.attributes[0]
    median = text.format_number(np.median(strong.values), "nats").removesuffix(" nats")
    explained = [f for f in failures.failures if f.explanation and f.explanation[0] is strong]
    assert explained
    for failure in explained:
        assert f"({median})" in text.hypothesis(failure) and "1 strong" in text.hypothesis(failure)


# Markdown


def tables_of(lines) -> list[list[list[str]]]:
    """Returns the rows of cells of each table."""
    tables, rows = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            tables.append(rows)
            rows = []
    return tables


def test_every_failure_has_a_row(failures):
    (table,) = tables_of(gallery.markdown([gallery.describe(failures)]))
    head, separator, *body = table
    assert head[:4] == ["", "image", "class", "badness, nats"]
    assert set(separator) == {"---"} and {len(row) for row in table} == {len(head)}
    assert len(body) == NUM_FAILURES
    for rank, (row, failure) in enumerate(zip(body, failures.failures, strict=True), start=1):
        assert row[:3] == [str(rank), str(1000 + failure.row), f"kind {failure.row % 3}"]
        assert row[3] == f"{failure.score:,.0f}"
        assert row[4] == text.hypothesis(failure).replace("|", r"\|")
        for attribute in failure.explanation[1:]:
            assert attribute.hypothesis in row[5]


def test_counts_add_up_to_the_failures(failures):
    items = [
        line for line in gallery.markdown([gallery.describe(failures)]) if line.startswith("- **")
    ]
    counts = [int(re.match(r"- \*\*(\d+) of 16: ", item)[1]) for item in items]
    assert sum(counts) == NUM_FAILURES and len(items) == 3
    assert text.NOTHING in items[-1]
    for name, count in zip(("strong things", "weak things"), counts, strict=False):
        (table,) = tables_of(gallery.markdown([gallery.describe(failures)]))
        assert sum(row[4].startswith(name) for row in table[2:]) == count


def test_section_gives_candidates_score_and_attributes_that_were_not_offered(failures):
    section = "\n".join(gallery.markdown([gallery.describe(failures)]))
    assert section.startswith("## Failure gallery\n")
    assert "\n### Worst things\n" in section and "What they are." in section
    median = text.format_number(np.median(failures.ranking.values), "nats")
    assert f"16 of 400 test things; median badness of all: {median}." in section
    assert "![Worst things](images/worst_things.png)" in section
    not_offered = re.search(r"Measured, but not offered.*", section)[0]
    assert re.search(r"other things \(\d+%\), same things \(none stands out\)", not_offered)
    assert "strong things" not in not_offered


def test_low_scores_may_be_the_worst():
    failures = choose(make_ranking(scores=-normal(0), unit="", is_low=True, name="low"), 5)
    scores = [f.score for f in failures.failures]
    assert scores == sorted(scores) and scores[0] == failures.ranking.values.min()


def test_sections_of_all_galleries_follow_each_other(failures):
    other = choose(make_ranking(name="other", heading="Others"), 3)
    lines = gallery.markdown([gallery.describe(failures), gallery.describe(other)])
    assert [line for line in lines if line.startswith("#")] == [
        *("## Failure gallery", "### Worst things", "### Others")
    ]
    assert gallery.markdown([]) == []


# JSON


def test_json_holds_every_failure_with_its_attributes(failures):
    content = json.loads(files.to_json(gallery.to_json(failures)))
    assert content["name"] == "worst_things" and content["num_candidates"] == N
    assert content["median_score"] == np.median(failures.ranking.values)
    assert len(content["failures"]) == NUM_FAILURES
    for entry, failure in zip(content["failures"], failures.failures, strict=True):
        assert entry["image"] == 1000 + failure.row and entry["score"] == failure.score
        assert entry["stands_out_in"] == [a.name for a in failure.explanation]
        for a in failures.ranking.attributes:
            assert entry["attributes"][a.name] == a.values[failure.row]
    assert sum(g["num_failures"] for g in content["groups"]) == NUM_FAILURES
    offered = {name: a["is_offered"] for name, a in content["attributes"].items()}
    assert offered == {"strong": True, "weak": True, "other": False, "same": False}


def test_json_has_null_and_the_reason_for_infinity():
    scores = np.where(np.arange(N) == 3, np.inf, normal(0))
    text = files.to_json(gallery.to_json(choose(make_ranking(scores=scores), 2)))
    worst = json.loads(text, parse_constant=pytest.fail)["failures"][0]
    assert worst["score"] is None and worst["score/not_finite"] == "inf"
    assert files.parse_json(text)["failures"][0]["score"] == np.inf


# The picture


def captionless(monkeypatch, failures) -> np.ndarray:
    """Draws the picture with captions of equally many blank lines."""
    with monkeypatch.context() as patch:
        wrap = picture.wrap
        patch.setattr(picture, "wrap", lambda *args: [" " for _ in wrap(*args)])
        return gallery.draw(failures)


def test_captions_change_the_picture_and_leave_the_images(failures, monkeypatch):
    drawn, blank = gallery.draw(failures), captionless(monkeypatch, failures)
    assert drawn.shape == blank.shape and drawn.dtype == np.uint8
    assert np.mean(np.any(drawn != blank, axis=-1)) > 0.02
    is_image = np.any(blank != 255, axis=-1)
    np.testing.assert_array_equal(drawn[is_image], blank[is_image])


def test_pairs_are_enlarged_side_by_side_four_in_a_row(failures, monkeypatch):
    drawn = captionless(monkeypatch, failures)
    side = 4 * SIZE
    pitch = 2 * side + picture.GAP + picture.MARGIN
    assert drawn.shape[1] == 4 * pitch + picture.MARGIN
    tops = np.flatnonzero(np.diff(np.any(drawn != 255, axis=(1, 2)).astype(int)) == 1) + 1
    assert len(tops) == 4
    for i, failure in enumerate(failures.failures):
        top, left = tops[i // 4], picture.MARGIN + i % 4 * pitch
        for image in failure.pair:
            expected = image.repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)
            found = drawn[top : top + side, left : left + side]
            np.testing.assert_array_equal(found, expected)
            left += side + picture.GAP


@pytest.mark.parametrize(
    ("size", "factor"), [(16, 7), (28, 4), (32, 4), (64, 2), (100, 1), (218, 1)]
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_tiles_of_any_size_are_about_as_wide(size, factor, num_channels, monkeypatch):
    images = make_images(5, size, num_channels)
    failures = choose(make_ranking(images, scores=np.arange(5.0)), 5)
    drawn = gallery.draw(failures)
    pitch = 2 * size * factor + picture.GAP + picture.MARGIN
    assert drawn.shape[1] == 4 * pitch + picture.MARGIN and drawn.shape[2] == 3


@pytest.mark.parametrize(("num_failures", "num_columns"), [(1, 1), (3, 3), (4, 4), (5, 4)])
def test_few_failures_are_drawn_without_empty_columns(num_failures, num_columns):
    drawn = gallery.draw(choose(make_ranking(), num_failures))
    pitch = 8 * SIZE + picture.GAP + picture.MARGIN
    assert drawn.shape[1] == num_columns * pitch + picture.MARGIN


def test_groups_have_colours_of_their_own(failures):
    colours = picture._colours(failures)
    by_group = {}
    for failure, colour in zip(failures.failures, colours, strict=True):
        name = failure.explanation[0].name if failure.explanation else None
        by_group.setdefault(name, set()).add(colour)
    assert all(len(found) == 1 for found in by_group.values())
    assert len(set().union(*by_group.values())) == len(by_group) == 3
    assert by_group[None] == {picture.GREY}


def test_colours_can_be_read_on_white():
    """The contrast is at least 4.5, as WCAG 2 requires."""

    def luminance(colour):
        c = np.array(colour) / 255.0
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for colour in (*picture.PALETTE, picture.GREY):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


@pytest.mark.parametrize("width", [120, 226, 500])
def test_wrapped_lines_fit_and_lose_no_word(width):
    line = "latent far from the aggregate posterior 1.49x (1.00x)"
    lines = picture.wrap(line, FONT, width)
    assert " ".join(lines) == line
    assert all(FONT.getlength(part) <= width or " " not in part for part in lines)
    assert len(lines) > 1 or FONT.getlength(line) <= width


def test_letters_can_be_read_at_half_the_width_of_a_page(failures):
    """A4 less margins, halved, is 85 mm wide; print of 6 points is 2.1 mm high."""
    width = gallery.draw(failures).shape[1]
    assert picture.FONT_SIZE / width * 85 >= 2.05
