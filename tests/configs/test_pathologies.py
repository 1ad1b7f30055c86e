"""The doctor names every failure that configs/pathologies produces, and nothing in healthy runs.

The runs are on scikit-learn's digits, which come with the package; `make doctor-table` does the
same on Fashion-MNIST with three seeds.
"""

import functools
import json
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from benchmarks import doctor_table
from tests.conftest import REPOSITORY

PATHOLOGIES = doctor_table.load_pathologies()


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Handwritten digits, 8 x 8, each also moved by one pixel in four directions."""
    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    moves = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    moved = np.concatenate([np.roll(images[:1500], move, axis=(1, 2)) for move in moves])
    directory = tmp_path_factory.mktemp("data")
    (directory / "digits").mkdir()
    np.save(directory / "digits" / "train_images.npy", np.random.default_rng(0).permutation(moved))
    np.save(directory / "digits" / "test_images.npy", images[1500:])
    return directory


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """Turns some optimisations on, because the runs have hundreds of steps."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.long  # tests/doctor has quick tests of every finding
@pytest.mark.parametrize("name", PATHOLOGIES)
def test_doctor_names_the_failure(name, digits_dir, tmp_path):
    module = PATHOLOGIES[name]
    config = doctor_table.make_config(
        module, tmp_path, seed=0, **{"data.name": "digits", "data.dir": str(digits_dir)}
    )
    findings = doctor_table.train_and_diagnose(config, tmp_path / name)
    if module.EXPECTED is None:
        assert all(finding["severity"] != "severe" for finding in findings), findings
    else:
        assert module.EXPECTED in {finding["name"] for finding in findings}, findings


def test_runs_share_a_table(tmp_path, monkeypatch):
    trained = []

    def train(config, run_dir):
        trained.append((run_dir.parent.name, config.seed))
        return [{"name": "kl_plateau", "severity": "severe"}]

    monkeypatch.setattr(
        doctor_table, "make_config", lambda *args, **_: ConfigDict({"seed": args[2]})
    )
    monkeypatch.setattr(doctor_table, "train_and_diagnose", train)
    runs = doctor_table.make_runs(tmp_path, "data")
    doctor_table.engine.run_all(runs, functools.partial(doctor_table.write_table, tmp_path))
    assert trained == [(name, seed) for seed in doctor_table.SEEDS for name in PATHOLOGIES]
    results = json.loads((tmp_path / "table.json").read_text())
    assert results == {name: [{"kl_plateau": "severe"}] * 3 for name in PATHOLOGIES}
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 2 + len(PATHOLOGIES)
    (line,) = (line for line in lines if line.startswith("| `kl_plateau`"))
    assert line.endswith("| `kl_plateau` | 3 of 3 | 3 of 3 | none |")


def test_published_table_is_that_of_its_json():
    directory = REPOSITORY / "workdir" / "pathologies"
    table = doctor_table.make_table(json.loads((directory / "table.json").read_text()))
    assert (directory / "table.md").read_text() == "\n".join(table.to_markdown())


def test_spoilt_images_of_a_faster_process_are_kept(tmp_path):
    for name in ("train", "test"):
        np.save(tmp_path / f"{name}_images.npy", np.zeros((2, 8, 8, 1), np.uint8))
    target = tmp_path / "data" / "spoilt"

    def spoil(train, test):
        target.mkdir(parents=True)
        (target / "first").touch()
        return train, test

    doctor_table._write_spoilt(types.SimpleNamespace(spoil=spoil), tmp_path, target)
    assert [path.name for path in (tmp_path / "data").rglob("*")] == ["spoilt", "first"]


def test_every_kind_of_finding_has_its_pathology():
    """A rule without a run that provokes it would be a claim."""
    source = "".join(p.read_text() for p in (REPOSITORY / "vae_jax" / "doctor").glob("*.py"))
    names = {line.split('"')[1] for line in source.splitlines() if line.strip().startswith("name=")}
    assert names - {m.EXPECTED for m in PATHOLOGIES.values()} <= {
        "non_finite_model",
        "too_few_images",
    }
