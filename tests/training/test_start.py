"""Tests of vae_jax/training/start.py: JAX's settings of a run and of its continuation."""

import json

import jax
import pytest

from tests.conftest import make_config
from vae_jax import training
from vae_jax.recording.writers import Summary


def evaluate_nothing(vae, split) -> Summary:
    return Summary({"elbo": -1.0})


def edit(workdir, **settings) -> None:
    path = workdir / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["provenance"]["jax_settings"] |= settings
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.long
def test_other_precision_is_noted_and_other_random_numbers_are_refused(copied_workdir, data_dir):
    config = make_config(data_dir, train__diagnose=True, train__num_steps=28, optim__decay_steps=28)
    edit(copied_workdir, key_kind="rbg")
    with pytest.raises(ValueError, match="draws its random numbers with rbg, this version with"):
        training.train_and_evaluate(config, copied_workdir, evaluate_nothing)
    edit(copied_workdir, key_kind="threefry2x32")
    with jax.default_matmul_precision("highest"):
        training.train_and_evaluate(config, copied_workdir, evaluate_nothing)
    (entry,) = json.loads((copied_workdir / "config.json").read_text(encoding="utf-8"))["history"]
    assert entry["step"] == 24
    assert entry["changed"] == {
        "jax_settings.default_matmul_precision": [None, "highest"],
        "optim.decay_steps": [0, 28],
        "train.num_steps": [24, 28],
    }
