"""Tests of vae_jax/models/memory.py."""

import math
import types

import jax
import pytest

from tests.conftest import IMAGE_SHAPE, SMALL_PRIOR, make_config, make_experiment
from vae_jax import experiment
from vae_jax.errors import InputError
from vae_jax.models import memory


@pytest.mark.parametrize("prior", ["standard_normal", "flow"])
def test_needed_bytes_are_those_of_the_state_and_a_batch(prior):
    run = make_experiment(prior__name=prior, **SMALL_PRIOR)
    needed = memory.check_memory(run.model, ["prior.x"], {"a": 3, "b": 5})
    state = jax.eval_shape(lambda: run.create_state(jax.random.key(0)))
    expected = sum(4 * leaf.size for leaf in jax.tree.leaves(state) if leaf.dtype == "float32")
    num_scalars = 8  # counts of the optimiser
    images = 5 * 4 * math.prod(IMAGE_SHAPE)
    assert needed.pop("b") == images
    assert abs(sum(needed.values()) - expected) <= 4 * num_scalars
    assert (needed["model.latent_shape, prior.x"] > 0) == (prior == "flow")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__widths": (16_384,)}, "depend on model.widths, model.num_blocks"),
        ({"model__latent_shape": (2**16,), "prior__name": "flow"}, "depend on .*prior.num_c"),
        ({"train__batch_size": 10**6}, "depend on train.batch_size: use"),
        ({"eval__batch_size": 10**6}, "depend on eval.batch_size: use"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_allocated(
    tmp_path, monkeypatch, overrides, message
):
    monkeypatch.setattr(memory, "memory_limit", lambda: 2**29)
    experiment.build(make_config(tmp_path), IMAGE_SHAPE)
    with pytest.raises(InputError, match=f"GiB of memory, but there are 0.5 GiB.*{message}"):
        experiment.build(make_config(tmp_path, **overrides), IMAGE_SHAPE)


def test_limit_is_that_of_the_device_or_of_the_machine(monkeypatch):
    """/proc/meminfo leaves out what the kernel keeps for itself."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        total = 1024 * int(file.readline().split()[1])
    assert total == pytest.approx(memory.memory_limit(), rel=0.01)
    gpu = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7})
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    assert memory.memory_limit() == 7
