"""Tests of vae_jax/recording/writers.py.

The TensorBoard files are those of the trained run, which train.py wrote in a process of its own: no
test imports TensorFlow into the test process.
"""

import importlib.metadata
import json
import logging
import math
import os
import pathlib

import numpy as np
import pytest

from tests.conftest import TINY, run_python
from vae_jax.recording import writers
from vae_jax.recording.writers import MetricWriter, Summary, read_metrics


def write_steps(workdir: pathlib.Path, steps, first_step: int = 0, offset: float = 0.0) -> None:
    writer = MetricWriter(workdir, first_step)
    for step in steps:
        writer.write(step, "train", Summary({"loss": step + offset}))
    writer.close()


def read_lines(workdir: pathlib.Path) -> list[str]:
    return (workdir / writers.METRICS_FILE).read_text(encoding="utf-8").splitlines()


# metrics.jsonl


def test_scalars_are_read_back_under_their_prefix(tmp_path):
    writer = MetricWriter(tmp_path, first_step=0)
    writer.write(1, "train", Summary({"loss": np.float32(0.1), "rate": 2}))
    writer.write(1, "validation", Summary({"elbo": -3.5}))
    writer.close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "train/loss": float(np.float32(0.1)), "train/rate": 2.0},
        {"step": 1, "validation/elbo": -3.5},
    ]


def test_texts_are_read_back_beside_the_scalars_and_survive_resuming(tmp_path):
    text = 'severe: "rust" at 3 ± 1 spots\nnote: moss'
    with MetricWriter(tmp_path, first_step=0) as writer:
        writer.write(1, "train", Summary({"loss": 2.0}, texts={"non_finite": text}))
        writer.write(1, "validation", Summary({}, texts={"diagnosis": ""}))
    MetricWriter(tmp_path, first_step=1).close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "train/loss": 2.0, "train/non_finite": text},
        {"step": 1, "validation/diagnosis": ""},
    ]
    assert len((tmp_path / writers.METRICS_FILE).read_text().splitlines()) == 2


def test_record_is_on_disk_before_the_writer_is_closed(tmp_path):
    writer = MetricWriter(tmp_path, first_step=0)
    writer.write(1, "train", Summary({"loss": 1.0}))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    writer.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_read_back(tmp_path, value):
    writer = MetricWriter(tmp_path, first_step=0)
    writer.write(1, "train", Summary({"loss": value}))
    writer.close()
    write_steps(tmp_path, [2], first_step=1)
    np.testing.assert_equal(read_metrics(tmp_path)[0]["train/loss"], value)
    for line in read_lines(tmp_path):
        json.loads(line, parse_constant=pytest.fail)  # jq and databases refuse NaN and Infinity


def test_records_of_earlier_versions_with_nan_are_read_and_rewritten(tmp_path):
    path = tmp_path / writers.METRICS_FILE
    path.write_text('{"step": 1, "train/loss": NaN, "train/rate": -Infinity}\n')
    expected = [{"step": 1, "train/loss": math.nan, "train/rate": -math.inf}]
    np.testing.assert_equal(read_metrics(tmp_path), expected)
    MetricWriter(tmp_path, first_step=1).close()
    json.loads(path.read_text(), parse_constant=pytest.fail)
    np.testing.assert_equal(read_metrics(tmp_path), expected)


@pytest.mark.parametrize(
    "line",
    [
        "7",
        "null",
        "[1]",
        '"step"',
        "{}",
        '{"step": 1.5}',
        '{"step": true}',
        '{"step": null, "step/not_finite": "nan"}',
        '{"step": 2, "train/loss": null, "train/loss/not_finite": "big"}',
        '{"step": 2, "train/loss": null, "train/loss/not_finite": {"0": "nan"}}',
        "\0\0\0",
        "[" * 100_000,
    ],
    ids=lambda line: line[:40].strip("\0"),
)
def test_line_that_is_no_record_is_skipped(tmp_path, line):
    write_steps(tmp_path, [1])
    with (tmp_path / writers.METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    write_steps(tmp_path, [3], first_step=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]


def test_validation_results_and_the_end_are_synced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    writer = MetricWriter(tmp_path, first_step=0)
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), sync(handle)))
    writer.write(1, "train", Summary({"loss": 1.0}))
    assert len(synced) == 0
    writer.write(1, "validation", Summary({"elbo": 1.0}))
    assert len(synced) == 1
    writer.write(2, "train", Summary({"loss": 1.0}))
    writer.close()
    assert len(synced) == 2


def test_link_in_place_of_the_metrics_file_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / writers.METRICS_FILE).symlink_to("theirs")
    write_steps(tmp_path, [1])
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_directory_without_a_run_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("first_step", [0, 2, 3, 9])
def test_resuming_drops_the_records_of_later_steps(tmp_path, first_step):
    write_steps(tmp_path, [1, 2, 3, 4])
    write_steps(tmp_path, [5, 6], first_step, offset=0.5)
    expected = [(s, float(s)) for s in (1, 2, 3, 4) if s <= first_step] + [(5, 5.5), (6, 6.5)]
    assert [(r["step"], r["train/loss"]) for r in read_metrics(tmp_path)] == expected
    assert [p.name for p in tmp_path.iterdir()] == [writers.METRICS_FILE]


def test_every_torn_last_line_is_ignored_and_does_not_spoil_the_next_record(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / writers.METRICS_FILE
    whole = path.read_text()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(1, len(last) - 1):
        path.write_text(whole[: -len(last)] + last[:length])
        assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    write_steps(tmp_path, [3], first_step=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_missing_tensorflow_is_logged_once_and_the_rest_is_written(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "vae_jax"):
        writer = MetricWriter(tmp_path, first_step=0)
        for step in (1, 2):
            image = np.zeros((4, 4, 3), np.uint8)
            writer.write(step, "train", Summary({"loss": 1.0}, {"grid": image}, {"h": np.ones(3)}))
        writer.close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "TensorBoard summaries are off" in messages[0] and "pip install" in messages[0]
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == [writers.METRICS_FILE]


# TensorBoard


@pytest.fixture(scope="module")
def events(trained_workdir):
    """What TensorBoard itself reads from the trained run: {plugin: {tag: [(step, array)]}}."""
    if not {"tensorflow", "tensorboard", "clu"} <= {*importlib.metadata.packages_distributions()}:
        pytest.skip("training writes TensorBoard files only if TensorFlow and clu are installed")
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    accumulator = event_accumulator.EventAccumulator(
        str(trained_workdir / "tensorboard"), size_guidance={event_accumulator.TENSORS: 0}
    )
    accumulator.Reload()
    found: dict[str, dict] = {}
    for tag in accumulator.Tags()["tensors"]:
        plugin = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
        points = accumulator.Tensors(tag)
        values = [(p.step, tensor_util.make_ndarray(p.tensor_proto)) for p in points]
        found.setdefault(plugin, {})[tag] = values
    return found


def test_tensorboard_shows_the_scalars_of_the_metrics_file(events, trained_workdir):
    expected: dict[str, list] = {}
    for record in read_metrics(trained_workdir):
        for name in record.keys() - {"step"}:
            if not isinstance(record[name], str):
                expected.setdefault(name, []).append((record["step"], record[name]))
    assert events["scalars"].keys() == expected.keys()
    for tag, points in expected.items():
        steps, values = zip(*points, strict=True)
        shown_steps, shown = zip(*events["scalars"][tag], strict=True)
        assert shown_steps == steps
        np.testing.assert_allclose(np.asarray(shown, np.float64), values, rtol=1e-6, err_msg=tag)


def test_tensorboard_shows_the_texts_of_the_metrics_file(events, trained_workdir):
    expected: dict[str, list] = {}
    for record in read_metrics(trained_workdir):
        for name, value in record.items():
            if isinstance(value, str):
                expected.setdefault(name, []).append((record["step"], value))
    assert "validation/diagnosis" in expected
    shown = {
        tag: [(step, value.item().decode()) for step, value in points]
        for tag, points in events["text"].items()
    }
    assert {tag.removesuffix("/text_summary"): points for tag, points in shown.items()} == expected


def evaluation_steps() -> list[int]:
    every = TINY["train.eval_every_steps"]
    return list(range(every, TINY["train.num_steps"] + 1, every))


def test_tensorboard_shows_the_images_of_every_evaluation(events):
    assert events["images"].keys() == {"validation/reconstructions", "validation/samples"}
    for points in events["images"].values():
        assert [step for step, _ in points] == evaluation_steps()
        for _, (width, height, png) in points:
            assert int(width) > 0 and int(height) > 0 and png.startswith(b"\x89PNG")


def test_tensorboard_shows_the_histograms_of_every_evaluation(events):
    points = events["histograms"]["validation/rate_per_dim"]
    assert [step for step, _ in points] == evaluation_steps()
    for _, buckets in points:  # [left, right, count]
        assert buckets[:, 2].sum() == np.prod(TINY["model.latent_shape"])


RESUMED = """
import pathlib, sys
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from vae_jax.recording.writers import MetricWriter, Summary

workdir, evaluates_again = pathlib.Path(sys.argv[1]), sys.argv[2] == "True"

def write(steps, first_step, **options):
    writer = MetricWriter(workdir, first_step, **options)
    for step in steps:
        writer.write(step, "train", Summary({"loss": step}))
        if step == 4:
            images = {"samples": np.zeros((2, 2, 3), np.uint8)}
            writer.write(step, "validation", Summary({"elbo": -1.0}, images))
    return writer

killed = write([2, 4, 6], 0)  # is not closed
path = next((workdir / "tensorboard").iterdir())
path.write_bytes(path.read_bytes()[:-3])  # the last record was being written
write([6, 8], 4, evaluates_again=evaluates_again).close()
events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
events.Reload()
print({tag: [e.step for e in events.Tensors(tag)] for tag in sorted(events.Tags()["tensors"])})
"""


@pytest.mark.long
@pytest.mark.parametrize("evaluates_again", [False, True])
def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path, evaluates_again):
    completed = run_python("-c", RESUMED, tmp_path, evaluates_again, tensorflow=True)
    names = [] if evaluates_again else ["validation/elbo", "validation/samples"]
    evaluated = {name: [4] for name in names}
    expected = {"train/loss": [2, 4, 6, 8], **evaluated}
    assert completed.stdout == f"{expected}\n", completed.stderr


def test_value_of_another_type_is_not_read_but_stays_in_the_file(tmp_path):
    """It is damaged, or a text from an evaluation function of the user."""
    line = '{"step": 1, "train/elbo": "abc", "train/rate": [1], "train/loss": 2, "b": true}'
    (tmp_path / writers.METRICS_FILE).write_text(line)
    MetricWriter(tmp_path, first_step=1).close()
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 2}]
    assert [json.loads(line) for line in read_lines(tmp_path)] == [json.loads(line)]
