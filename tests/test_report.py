"""Tests of vae_jax/report.py: how numbers are written down."""

import dataclasses
import json
import re

import pytest

from vae_jax import report
from vae_jax.evaluation import Metric

ELBO = Metric(
    value=-234.567,
    unit="nats",
    split="test",
    num_images=10_000,
    seed=0,
    checkpoint_step=7,
    protocol="one draw z ~ q(z|x)",
    standard_error=0.891,
)
UNITS = dataclasses.replace(ELBO, value=21, unit="of 32", standard_error=None)
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
    assert report.format_value(metric) == text


def test_table_keeps_its_columns_where_a_protocol_has_bars():
    for line in report.markdown_table(METRICS).splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        assert len(cells) == 4 + 2  # and what stands before the first bar and behind the last


def test_summary_has_every_number_and_the_paths(tmp_path):
    directory = tmp_path / "run" / "eval"
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "samples.png").touch()
    content = {name: dataclasses.asdict(metric) for name, metric in METRICS.items()}
    (directory / report.METRICS_FILE).write_text(json.dumps(content))
    text = report.summarise(directory)
    for metric in METRICS.values():
        assert report.format_value(metric) in text
    assert "checkpoint of step 7" in text
    assert str(directory / "images" / "samples.png") in text


def test_summary_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run evaluate.py --workdir="):
        report.summarise(tmp_path / "eval")
