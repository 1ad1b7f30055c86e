"""Tests of vae_jax/report/content.py and markdown.py: how numbers are formatted."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_experiment
from vae_jax import gallery, report
from vae_jax.gallery.failures import choose
from vae_jax.gallery.ranking import Ranking
from vae_jax.inference.image_sets import SETS
from vae_jax.metrics import stored
from vae_jax.metrics.metric import FID_TAP, Metric, by_key
from vae_jax.recording.tables import Table
from vae_jax.report import content as report_content

ELBO = Metric(
    name="elbo",
    value=-234.567,
    unit="nats",
    image_set="test",
    num_images=10_000,
    seed=0,
    checkpoint_step=7,
    protocol="one draw z ~ q(z|x)",
    standard_error=0.891,
)
UNITS = dataclasses.replace(ELBO, name="active_units", value=21, unit="of 32", standard_error=None)
METRICS = {"elbo": ELBO, "active_units": UNITS}


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (ELBO, "-234.57 ± 0.89 nats"),
        (UNITS, "21 of 32"),
        (dataclasses.replace(ELBO, value=3.6377, unit="bits"), "3.638 ± 0.891 bits"),
        (dataclasses.replace(ELBO, value=0.6061, unit="", standard_error=None), "0.606"),
        (dataclasses.replace(ELBO, standard_error=None), "-234.57 nats"),
    ],
)
def test_value_is_written_with_error_and_unit(metric, text):
    assert report_content.format_value(metric) == text


def test_table_keeps_its_columns_where_a_protocol_has_bars():
    for line in report_content.metric_table(METRICS).to_markdown()[:-1]:
        cells = re.split(r"(?<!\\)\|", line)
        assert len(cells) == 4 + 2  # and the text before the first bar and after the last


def test_report_on_other_images_begins_with_that(data_dir):
    run = make_experiment(data_dir)
    for sha256, begin in (
        (run.dataset.hash(), "Checkpoint at step 7"),
        ("0" * 64, "OTHER IMAGES: these are not the training and validation images"),
    ):
        seen = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, sha256=sha256))
        content = report_content.create_content(seen, METRICS, [], [], [], None)
        assert content.summary.startswith(begin)


def test_summary_has_every_number_and_the_paths(tmp_path):
    directory = tmp_path / "run" / "eval"
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "samples.png").touch()
    stored.write(directory / report.METRICS_FILE, METRICS)
    text = report.summarise(directory)
    for metric in METRICS.values():
        assert report_content.format_value(metric) in text
    assert "checkpoint at step 7" in text
    assert str(directory / "images" / "samples.png") in text


def test_summary_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run evaluate.py --workdir="):
        report.summarise(tmp_path / "eval")


# Sample metrics

DISTANCES = {  # of a model in which every part costs something, and the prior most
    "samples": 40.0,
    "sample_means": 38.0,
    "aggregate_posterior_samples": 19.0,
    "aggregate_posterior_means": 18.0,
    "reconstructions": 16.0,
    "reconstruction_means": 14.0,
    "train": 3.0,
}
SCORE = dataclasses.replace(
    ELBO,
    name="inception_score",
    value=5.4321,
    unit="",
    reference_split="test",
    preprocessing="pytorch_fid",
    standard_error=0.04567,
)
DISTANCE = dataclasses.replace(SCORE, name="fid", tap=768, protocol="p|q", standard_error=None)
KINDS = {  # label: the fields that it shows
    "fid": {"tap": FID_TAP},
    "fid_768": {},
    "clean_fid": {"preprocessing": "clean", "tap": FID_TAP},
    "clean_fid_768": {"preprocessing": "clean"},
    "kid": {"name": "kid", "tap": FID_TAP},
    "clean_kid_768": {"name": "kid", "preprocessing": "clean"},
}


def make_distances(
    distances, split: str = "test", label: str = "fid_768", **fields
) -> dict[str, Metric]:
    fields = {"reference_split": split, **KINDS[label], **fields}
    metrics = [
        dataclasses.replace(DISTANCE, image_set=name, value=value, **fields)
        for name, value in distances.items()
    ]
    assert [m.key for m in metrics] == [f"{name}_vs_{split}/{label}" for name in distances]
    return by_key(metrics)


def make_sample_metrics() -> dict[str, Metric]:
    """Four kinds of features against test, one against train; real images have no score."""
    metrics = {}
    for label in ("fid", "fid_768", "clean_fid", "clean_fid_768"):
        metrics |= make_distances(DISTANCES, label=label)
    for label in ("kid", "clean_kid_768"):
        metrics |= make_distances(DISTANCES, label=label, standard_error=0.04567)
    metrics |= by_key(
        dataclasses.replace(SCORE, image_set=name) for name in DISTANCES if name != "train"
    )
    metrics |= make_distances({"samples": 41.0, "sample_means": 39.0, "test": 2.0}, "train")
    return metrics


def cells_of(line: str) -> list[str]:
    """Returns the cells between the first bar and the last."""
    assert line.startswith("|") and line.endswith("|") and not line.endswith(r"\|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables_of(text: str) -> list[list[list[str]]]:
    """Returns the rows of cells of each table; a blank line separates tables from text."""
    tables = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if any(line.startswith("|") for line in lines):
            tables.append([cells_of(line) for line in lines])
    return tables


def markdown_of(tables: list[Table]) -> str:
    return "\n".join(line for table in tables for line in table.to_markdown())


def test_every_kind_of_features_has_a_table_for_each_split():
    tables = tables_of(markdown_of(report_content.sample_tables(make_sample_metrics())))
    heads = {tuple(table[0]) for table in tables}
    assert len(tables) == len(heads)
    assert heads == {
        ("against test", "images", "`fid`", "`kid`", "`inception_score`"),
        ("against test", "images", "`fid_768`"),
        ("against test", "images", "`clean_fid`"),
        ("against test", "images", "`clean_fid_768`", "`clean_kid_768`"),
        ("against train", "images", "`fid_768`"),
    }
    for head, separator, *body in tables:
        assert set(separator) == {"---"}
        labels = [row[0].split("`")[1] for row in body]
        against_train = ["samples", "sample_means", "test"]
        assert labels == (against_train if head[0] == "against train" else list(DISTANCES))


def test_cells_hold_values_with_their_errors():
    tables = tables_of(markdown_of(report_content.sample_tables(make_sample_metrics())))
    head, _, *body = next(table for table in tables if "`kid`" in table[0])
    assert head == ["against test", "images", "`fid`", "`kid`", "`inception_score`"]
    for row, (label, value) in zip(body, DISTANCES.items(), strict=True):
        score = "" if label == "train" else "5.432 ± 0.046"
        assert row[2:] == [f"{value:g}", f"{value:g} ± 0.046", score]


@pytest.mark.parametrize("value", [0.00012345, 0.012345, 1.2345, 123.45, 1234.5])
def test_distance_of_any_size_has_four_digits(value):
    text = report_content.format_sample_value(dataclasses.replace(DISTANCE, value=value))
    assert abs(float(text) / value - 1) < 5e-4
    assert len(text.replace(".", "").lstrip("0")) <= 4


def test_sample_tables_name_the_protocol_and_the_sets():
    text = markdown_of(report_content.sample_tables(make_sample_metrics()))
    for label in (*DISTANCES, "test"):
        assert f"`{label}`: " + SETS[label].replace("|", r"\|") in text
    assert text.count("10,000 images p|q, ") == 5  # once below each table
    for names, how in (
        ("`fid`, `kid`", "2048 features, pytorch_fid"),
        ("`clean_fid_768`, `clean_kid_768`", "768 features, clean"),
    ):
        first = f"Protocol of the first row: {names}: 10,000 images p|q, {how} preprocessing"
        assert first in text


def test_without_sample_metrics_there_are_no_tables():
    assert report_content.sample_tables(METRICS) == []
    assert report_content.three_distances(METRICS) == []


def test_without_a_frechet_distance_there_is_no_reading():
    metrics = make_distances(DISTANCES, label="kid")
    assert report_content.three_distances(metrics) == []
    against_train = make_distances({"samples": 41.0, "sample_means": 39.0, "test": 2.0}, "train")
    assert report_content.three_distances(metrics | against_train) == []


@pytest.mark.parametrize(
    ("changes", "suspect", "costs"),
    [
        ({}, "prior hole", (15, 20, 2)),
        ({"sample_means": 21.0}, "the decoder, the size of the latent code", (15, 3, 2)),
        ({"reconstructions": 90.0}, "prior hole", (15, 20, 76)),  # pixels are reported, not ranked
        ({"train": 17.0, "sample_means": 19.0}, "Neither of the first two", (1, 1, 2)),
        ({"train": 19.0, "sample_means": 17.0}, "Neither of the first two", (-1, -1, 2)),
    ],
    ids=["prior", "decoder", "pixels", "neither", "negative"],
)
@pytest.mark.parametrize("label", ["fid", "clean_fid_768"])
def test_reading_names_what_stands_out(changes, suspect, costs, label):
    distances = {**DISTANCES, **changes}
    text = markdown_of(report_content.three_distances(make_distances(distances, label=label)))
    ((head, _, *body),) = tables_of(text)
    assert head[0] == f"`{label}` against test"
    assert [row[1:] for row in body] == [
        [f"{distances['train']:g}", ""],
        [f"{distances['reconstruction_means']:g}", f"{distances['reconstructions']:g}"],
        ["18", "19"],
        [f"{distances['sample_means']:g}", "40"],
    ]
    reading = text.split("Decoding the codes of real images adds")[1]
    assert tuple(map(int, re.findall(r"-?\d+", reading))) == costs
    suspects = ("prior hole", "the decoder, the size of the latent code", "Neither of the first")
    assert [s for s in suspects if s in reading] == [s for s in suspects if suspect.startswith(s)]


def test_reading_does_not_rest_on_biased_distances():
    biased = make_distances(DISTANCES, label="fid", is_biased=True)
    assert report_content.three_distances(biased) == []
    sound = make_distances(DISTANCES, label="fid_768")
    assert "`fid_768` against test" in report_content.three_distances(biased | sound)[0].titles
    floor = make_distances({"train": 3.0}, label="fid_768", is_biased=True)
    assert report_content.three_distances(sound | floor) == []


def test_words_of_a_protocol_do_not_make_it_biased():
    """The field says whether a distance is biased; the protocol is text for people."""
    sound = make_distances(DISTANCES, protocol="against 7 biased friends")
    assert len(report_content.three_distances(sound)) == 1


def test_reading_takes_one_kind_of_features_only():
    metrics = make_distances(DISTANCES, label="fid")
    metrics |= make_distances(dict.fromkeys(DISTANCES, 1000.0), label="clean_fid")
    assert "1000" not in markdown_of(report_content.three_distances(metrics))


def test_reading_is_left_out_where_a_distance_is_missing():
    """With fewer training images than features there is no floor, but the other distances exist."""
    distances = {label: value for label, value in DISTANCES.items() if label != "train"}
    assert report_content.three_distances(make_distances(distances)) == []


@pytest.fixture
def written(tmp_path) -> pathlib.Path:
    """The directory of a written evaluation with sample metrics and notes."""
    directory = tmp_path / "run" / "eval"
    grids = {"samples": np.zeros((4, 4, 3), np.uint8)}
    notes = ["Missing: `fid` of something.", "Another thing is missing, too."]
    report.write_evaluation(
        directory, make_experiment(tmp_path), METRICS | make_sample_metrics(), grids, notes
    )
    return directory


def test_every_table_of_the_report_is_well_formed(written):
    tables = tables_of((written / report.REPORT_FILE).read_text())
    assert len(tables) == 1 + 1 + 5  # of the bounds, the reading, the sample metrics
    for table in tables:
        assert len({len(row) for row in table}) == 1
        assert set(table[1]) == {"---"}
        assert len(table) > 2


def test_notes_stand_in_the_report(written):
    text = (written / report.REPORT_FILE).read_text()
    section = text.split("\n## Missing results\n")[1].split("\n## ")[0]
    for note in ("Missing: `fid` of something.", "Another thing is missing, too."):
        assert f"\n\n{note}\n\n" in f"\n{section}\n"


def test_notes_alone_make_a_section_and_nothing_makes_none(tmp_path):
    config = make_experiment(tmp_path)
    for notes in ([], ["Missing: all."]):
        report.write_evaluation(tmp_path, config, METRICS, {}, notes)
        text = (tmp_path / report.REPORT_FILE).read_text()
        assert ("## Missing results\n\nMissing: all.\n" in text) == bool(notes)
        assert ("## Missing results" in text) == bool(notes)
        assert "## Sample quality" not in text


def test_metrics_file_gives_back_every_metric(written):
    found = stored.read(written / report.METRICS_FILE)
    assert found == METRICS | make_sample_metrics()
    assert list(found) == list(METRICS | make_sample_metrics())


def test_summary_has_a_row_for_each_pair_of_sets(written):
    rows = {}
    for line in report.summarise(written).splitlines():
        match = re.match(r"  (\w+)  +(.*)", line)
        if match:
            rows[match[1]] = match[2]
    pairs = dict.fromkeys(name.split("/")[0] for name in make_sample_metrics())
    assert [name for name in rows if "_vs_" in name] == list(pairs)
    assert "fid 40  fid_768 40" in rows["samples_vs_test"]
    assert "kid 40 ± 0.046" in rows["samples_vs_test"]
    assert rows["test_vs_train"] == "fid_768 2"
    assert rows.keys() >= METRICS.keys()


# Failures


def make_failures(name: str, num_failures: int) -> gallery.FailureSet:
    images = np.random.default_rng(0).integers(0, 200, (9, 28, 28, 1), dtype=np.uint8)
    ranking = Ranking(
        name=name,
        heading=f"Heading of {name}",
        candidates="images",
        sides=("image", "image"),
        description="",
        score="distortion",
        unit="nats",
        values=np.arange(9.0),
        attributes=[],
        describe=lambda row: {"image": int(row)},
        show=lambda rows: [(images[row], images[row]) for row in rows],
    )
    return choose(ranking, num_failures)


def test_galleries_are_written_as_pictures_text_and_numbers(tmp_path):
    failures = [make_failures("worst_a", 4), make_failures("worst_b", 6)]
    grids = {"samples": np.zeros((4, 4, 3), np.uint8)}
    report.write_evaluation(tmp_path, make_experiment(tmp_path), METRICS, grids, [], failures)
    text = (tmp_path / report.REPORT_FILE).read_text()
    for failure_set in failures:
        path = tmp_path / "images" / f"{failure_set.ranking.name}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), gallery.draw(failure_set))
        assert f"](images/{path.name})" in text
    section = text.split("\n## Failure gallery\n")[1].split("\n## ")[0]
    assert (
        f"## Failure gallery\n{section}".strip()
        == "\n".join(gallery.markdown([*map(gallery.describe, failures)])).strip()
    )
    assert len(tables_of(section)[0]) == 2 + 4 and len(tables_of(section)[1]) == 2 + 6
    content = json.loads((tmp_path / report.GALLERY_FILE).read_text())
    assert content == [gallery.to_json(failure_set) for failure_set in failures]
    assert str(tmp_path / report.GALLERY_FILE) in report.summarise(tmp_path)


def test_without_galleries_there_is_no_section_and_an_earlier_file_is_emptied(tmp_path):
    config = make_experiment(tmp_path)
    report.write_evaluation(tmp_path, config, METRICS, {}, [], [make_failures("worst_a", 4)])
    report.write_evaluation(tmp_path, config, METRICS, {})
    assert "Failure gallery" not in (tmp_path / report.REPORT_FILE).read_text()
    assert json.loads((tmp_path / report.GALLERY_FILE).read_text()) == []


@pytest.mark.parametrize("name", [report.GALLERY_FILE, report.HTML_FILE])
def test_summary_names_files_of_newer_versions_only_if_they_exist(written, name):
    assert str(written / name) in report.summarise(written)
    (written / name).unlink()
    assert name not in report.summarise(written)
