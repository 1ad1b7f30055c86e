"""Tests of benchmarks/train.py from end to end, on models that take no time."""

import importlib.util
import json

import numpy as np
import pytest

from benchmarks import train
from benchmarks.train_worker import FLAX_EXAMPLE, OURS, Job
from tests.conftest import run_python

TINY = {"model.widths": [8, 8], "model.latent_shape": [4], "train.batch_size": 4}


def run_benchmark(tmp_path, programs: list[str]):
    """Returns (JSON record, printed text)."""
    output = tmp_path / "train.json"
    process = run_python(
        "-m",
        "benchmarks.train",
        "--configs=demo",
        f"--programs={';'.join(programs)}",
        "--rounds=2",
        "--seconds=0.1",
        "--matrix_size=64",
        f"--overrides={json.dumps(TINY)}",
        f"--output={output}",
    )
    assert process.returncode == 0, process.stderr
    return json.loads(output.read_text()), process.stdout


@pytest.mark.long
def test_end_to_end(tmp_path):
    programs = [OURS, FLAX_EXAMPLE]
    if importlib.util.find_spec("torch"):
        programs.insert(1, "torch eager")
    record, printed = run_benchmark(tmp_path, programs)
    (result,) = record["results"]
    assert [m["program"] for m in result["measurements"]] == programs
    assert not result["failed"]
    ours, *_, example = result["measurements"]
    assert (ours["batch_size"], example["batch_size"]) == (4, 128)
    for m in result["measurements"]:
        assert len(m["images_per_second"]) == len(m["matrix_operations_per_second"]) == 2
        speed = np.median(m["images_per_second"])
        assert m["operations_per_second"] == pytest.approx(speed * m["operations_per_image"])
        expected = np.divide(ours["images_per_second"], m["images_per_second"])
        np.testing.assert_allclose(m["ratios_of_ours_to_it"], expected)
        assert m["peak_memory_bytes"] > 50 * 2**20  # a process that has imported JAX or torch
        assert m["first_step_seconds"] > 0
        assert f"| {m['program']} |" in printed
    assert "JAX" in record["machine"]


@pytest.mark.long
def test_a_program_that_fails_is_reported(tmp_path, monkeypatch):
    """The other programs continue. Here the twin lacks the likelihood."""
    pytest.importorskip("torch")
    monkeypatch.setitem(TINY, "likelihood.name", "gaussian")
    record, printed = run_benchmark(tmp_path, [OURS, "torch eager"])
    (result,) = record["results"]
    assert [m["program"] for m in result["measurements"]] == [OURS]
    assert "status 1" in result["failed"]["torch eager"]
    assert "| torch eager | ended with status 1 |" in printed


def test_programs():
    on_cpu = list(train.programs_of("demo", "cpu"))
    on_gpu = list(train.programs_of("demo", "gpu"))
    assert set(on_gpu) - set(on_cpu) == {"torch compile, CUDA graphs"}
    assert FLAX_EXAMPLE not in train.programs_of("cifar10", "gpu")


def test_configurations_and_their_operations():
    """Every configuration has an image shape and a count; larger models have more operations."""
    counts = []
    for name in train.CONFIGS:
        config, image_shape = Job(OURS, name, {}).load()
        counts.append(train.count_operations(OURS, config, image_shape))
    assert min(counts[2:]) > 50 * max(counts[:2])
