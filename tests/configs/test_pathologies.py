"""The doctor names every failure that configs/pathologies produces, and nothing in healthy runs.

The runs are on scikit-learn's digits, which come with the package; `make doctor-table` does the
same on Fashion-MNIST with three seeds.
"""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import doctor_table
from tests.conftest import REPOSITORY

PATHOLOGIES = doctor_table.load_pathologies()
# One case for each way to a finding (from the model, from a diverged run), and a healthy one.
# tests/doctor has quick tests of every finding on constructed examinations, records or images.
SHORT = {"posterior_collapse", "non_finite", "healthy_gaussian"}
CASES = [pytest.param(n, marks=[pytest.mark.long] * (n not in SHORT)) for n in PATHOLOGIES]


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


@pytest.mark.parametrize("name", CASES)
def test_doctor_names_the_failure(name, digits_dir, tmp_path):
    module = PATHOLOGIES[name]
    config = doctor_table.make_config(
        module, tmp_path, seed=0, **{"data.name": "digits", "data.dir": str(digits_dir)}
    )
    diagnosis = doctor_table.train_and_diagnose(config, tmp_path / name)
    if module.EXPECTED is None:
        assert not diagnosis.is_severe, str(diagnosis)
    else:
        assert module.EXPECTED in {finding.name for finding in diagnosis.findings}, str(diagnosis)


def test_every_kind_of_finding_has_its_pathology():
    """A rule without a run that provokes it would be a claim."""
    source = "".join(p.read_text() for p in (REPOSITORY / "vae_jax" / "doctor").glob("*.py"))
    names = {line.split('"')[1] for line in source.splitlines() if line.strip().startswith("name=")}
    assert names - {m.EXPECTED for m in PATHOLOGIES.values()} <= {
        "non_finite_model",
        "too_few_images",
    }
