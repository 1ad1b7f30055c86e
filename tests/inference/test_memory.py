"""Tests of vae_jax/inference/memory.py, and of the batches that TrainedVAE makes with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import changed_vae, make_config, smooth_images
from vae_jax.errors import InputError
from vae_jax.experiment import Experiment, build
from vae_jax.inference import TrainedVAE, create_steps, memory

KEY = jax.random.key(0)
IMAGES = smooth_images(5)


@pytest.fixture
def free_images(monkeypatch, vae):
    """Sets the free memory to that of this many images of the tiny model."""

    def set_free(num_images: float) -> None:
        free = int(num_images * memory.bytes_per_image(vae.model))
        monkeypatch.setattr(memory, "free_bytes", lambda devices: free)

    return set_free


def make_run(shape: tuple[int, int, int], tmp_path, **overrides) -> Experiment:
    return build(make_config(tmp_path, **overrides), shape)


@pytest.mark.parametrize(
    ("shape", "overrides"),
    [
        ((32, 32, 1), {"model__widths": (32,)}),  # the feature maps take most of the memory
        (  # the parameters of the likelihood do
            (32, 64, 3),
            {"likelihood__name": "discretized_logistic_mixture", "likelihood__num_mixtures": 5},
        ),
    ],
    ids=["features", "likelihood"],
)
def test_estimate_is_an_upper_bound_within_a_factor_of_three(tmp_path, shape, overrides):
    run = make_run(shape, tmp_path, model__patch_size=2, **overrides)
    batch_size = 4  # over two devices
    params = jax.eval_shape(lambda: run.create_state(KEY)).params
    x = jax.ShapeDtypeStruct((batch_size, *shape), jnp.uint8)
    ids = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    compiled = create_steps(run).elbo_terms.lower(params, x, ids, KEY).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes / (batch_size / jax.device_count())
    assert taken <= memory.bytes_per_image(run.model) <= 3 * taken


@pytest.mark.parametrize(
    ("num_free", "batch_size"), [(1000, 8), (32, 8), (31, 4), (16, 4), (8, 2), (2.1, 2)]
)
def test_batches_fit_into_a_quarter_of_the_free_memory(vae, free_images, num_free, batch_size):
    """A batch is a multiple of the two devices; less than one image each is not possible."""
    free_images(num_free)
    assert TrainedVAE(vae.experiment, vae.params).batch_size == batch_size


def test_results_do_not_depend_on_the_limit(vae, free_images):
    free_images(16)
    limited = TrainedVAE(vae.experiment, vae.params)
    np.testing.assert_allclose(limited.elbo(IMAGES, KEY), vae.elbo(IMAGES, KEY), rtol=1e-5)


def test_a_limited_batch_is_announced_once(vae, free_images, monkeypatch):
    lines = []
    monkeypatch.setattr(memory.LOGGER, "info", lambda text, *values: lines.append(text % values))
    free_images(32)
    TrainedVAE(changed_vae(vae, batch_size=500).experiment, vae.params, raw_params=vae.params)
    (line,) = lines
    assert line.startswith("eval.batch_size = 500 would take about ")
    assert line.endswith(" GB for images of 16x16x1: 8 images at a time are evaluated.")


def test_no_room_for_one_image_is_an_error(vae, free_images):
    free_images(1.9)  # but there are two devices
    with pytest.raises(InputError, match="An image of 16x16x1 on each of 2 devices takes about"):
        create_steps(vae.experiment)


def test_batches_are_padded_little_and_have_few_sizes(vae):
    large = changed_vae(vae, batch_size=500)
    sizes = [large._padded_size(n) for n in range(1, 1000)]
    for n, size in enumerate(sizes, start=1):
        assert size % 2 == 0 and size <= 500
        assert size >= min(n, 500)
        assert size <= max(2, 4 * n)
    assert len(set(sizes)) == 5


@pytest.mark.parametrize("n", [1, 2])
def test_results_for_few_images_are_those_in_a_full_batch(vae, n):
    full = vae.elbo(IMAGES, KEY)
    np.testing.assert_allclose(vae.elbo(IMAGES[:n], KEY), full[:n], rtol=1e-5)
