"""The committed checkpoints give the numbers that are committed beside them."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from vae_jax import config as configuration
from vae_jax import data, evaluation, inference
from vae_jax.metrics import stored
from vae_jax.metrics.metric import Metric

# The metric and how far two computations of it may differ; a density has no bits per dimension.
RUNS = {
    "fashion_mnist": ("bits_per_dim", 1e-5),
    "cifar10_cpu_prior": ("elbo", 0.1),
    "celeba_10k": ("elbo", 0.3),
}


def evaluate(run: str, num_images: int | None = None) -> tuple[Metric, ...]:
    """Returns the run's metric as (stored over all test images, new over random ones or all)."""
    workdir, metric = REPOSITORY / "workdir" / run, RUNS[run][0]
    before = stored.read(workdir / "eval" / "metrics.json")[metric]
    directory = data.dataset_directory(configuration.load(workdir).data.name)
    if not (directory / "test_images.npy").exists():
        pytest.skip(f"no images at {directory}")
    vae = inference.load(workdir, before.checkpoint_step, data_dir=data.DEFAULT_DATA_DIR)
    split = vae.experiment.dataset.split("test")
    if num_images is not None:
        chosen = np.random.default_rng(0).permutation(len(split))[:num_images]
        split = dataclasses.replace(split, indices=chosen)
    return before, evaluation.evaluate_bounds(vae, split)[metric]


@pytest.mark.parametrize("run", RUNS)
def test_metric_of_500_images(run):
    """The mean over 500 is within four of its standard errors of the stored mean over all."""
    before, found = evaluate(run, 500)
    assert found.num_images == 500
    assert found.value == pytest.approx(before.value, abs=4 * found.standard_error)


@pytest.mark.long
@pytest.mark.parametrize("run", RUNS)
def test_metric_of_all_images(run):
    before, found = evaluate(run)
    assert found.num_images == before.num_images == (1000 if run == "celeba_10k" else 10_000)
    assert found.value == pytest.approx(before.value, abs=RUNS[run][1])


@pytest.mark.parametrize("run", RUNS)
def test_files_are_small(run):
    checkpoints = REPOSITORY / "workdir" / run / "checkpoints"
    last = max(checkpoints.iterdir(), key=lambda path: int(path.name))
    files = [path for path in last.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 20e6
