"""The committed checkpoint of workdir/fashion_mnist is the model that its numbers are of."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import REPOSITORY

from vae_jax import config as configuration
from vae_jax import data, evaluation, inference

WORKDIR = REPOSITORY / "workdir" / "fashion_mnist"
IMAGES = data.dataset_directory("fashion_mnist", data.DEFAULT_DATA_DIR) / "test_images.npy"

pytestmark = pytest.mark.skipif(not IMAGES.exists(), reason=f"no Fashion-MNIST at {IMAGES.parent}")


def evaluate(num_images: int | None = None) -> tuple[evaluation.Metric, evaluation.Metric]:
    """bits_per_dim of random test images, or of all: (stored of all, new)."""
    stored = json.loads((WORKDIR / "eval" / "metrics.json").read_text())["bits_per_dim"]
    stored = evaluation.Metric(**stored)
    vae = inference.load(WORKDIR, stored.checkpoint_step)
    vae.config.data.dir = data.DEFAULT_DATA_DIR
    split = configuration.load_split(vae.config, "test")
    if num_images is not None:
        chosen = np.random.default_rng(0).permutation(len(split))[:num_images]
        split = dataclasses.replace(split, indices=chosen)
    return stored, evaluation.evaluate_bounds(vae, split)["bits_per_dim"]


def test_bits_per_dim_of_500_images():
    """Within four standard errors of the mean over 500 of the stored mean over all."""
    stored, found = evaluate(500)
    assert found.num_images == 500
    assert found.value == pytest.approx(stored.value, abs=4 * found.standard_error)


@pytest.mark.long
def test_bits_per_dim_of_all_images():
    stored, found = evaluate()
    assert found.num_images == stored.num_images == 10_000
    assert found.value == pytest.approx(stored.value, abs=1e-5)


def test_files_are_small():
    files = [path for path in (WORKDIR / "checkpoints").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 20e6
