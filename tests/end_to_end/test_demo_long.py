"""The demo as a whole, on real Fashion-MNIST: minutes of training."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs import demo
from vae_jax import data
from vae_jax.metrics import stored

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).resolve().parents[2]


def marginal_bits_per_dim(train: np.ndarray, test: np.ndarray) -> float:
    """Returns the bits of independent pixels with (add-one smoothed) frequencies in training."""
    counts = np.ones((train[0].size, 256))
    pixels = np.arange(train[0].size)
    for image in train.reshape(len(train), -1):
        counts[pixels, image] += 1
    log2_mass = np.log2(counts / counts.sum(axis=1, keepdims=True))
    return float(-np.mean([log2_mass[pixels, image] for image in test.reshape(len(test), -1)]))


def test_demo_beats_independent_pixels_and_the_mean_image(tmp_path):
    config = demo.get_config()
    try:
        splits = {
            name: data.load_split(config.data.name, name, config.data.dir)
            for name in ("train", "test")
        }
    except ValueError as error:
        pytest.skip(f"no Fashion-MNIST here: {error}")
    train, test = (split.take(np.arange(len(split))) for split in splits.values())
    workdir = f"--workdir={tmp_path}"
    for command in (
        ["train.py", f"--config={demo.__file__}", workdir],
        ["evaluate.py", workdir, "--num_samples=0"],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    metrics = stored.read(tmp_path / "eval" / "metrics.json")

    assert metrics["bits_per_dim"].value < marginal_bits_per_dim(train, test)
    assert metrics["iw_elbo"].value > metrics["elbo"].value
    assert metrics["active_units"].value >= config.model.latent_shape[0] // 2
    squared_errors = ((test / 255.0 - train.mean(axis=0) / 255.0) ** 2).mean(axis=(1, 2, 3))
    assert metrics["psnr"].value > np.mean(-10 * np.log10(squared_errors)) + 3
