"""Tests of benchmarks/operations.py against brute force and against XLA's own count."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from benchmarks import operations
from configs import default, demo
from vae_jax import experiment
from vae_jax.training.steps import create_train_step

VECTOR = {"model.latent_shape": (5,), "model.widths": (8, 16), "model.num_blocks": (0, 2)}
GRID = {
    "model.latent_shape": (4, 4, 3),
    "model.widths": (8, 12),
    "model.num_blocks": (1, 1),
    "model.patch_size": 1,
    "model.attention_resolutions": (4,),
}
CASES = {"vector": (VECTOR, (16, 24, 1)), "grid, attention": (GRID, (8, 8, 3))}


def lowered_step(config: ConfigDict, image_shape: tuple[int, int, int], batch_size: int):
    """Returns (model, traced training step)."""
    run = experiment.build(config, image_shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(run.create_state, key)
    rows = {"x": jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)}
    return run.model, jax.jit(create_train_step(run)).trace(shapes, rows, key)


def count_products(jaxpr) -> float:
    """Sums XLA's counts for each convolution and matrix product of a float32 program.

    (With mixed dtypes, XLA would also count conversions.)
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            alone = jax.jit(lambda *factors, e=equation: e.primitive.bind(*factors, **e.params))
            factors = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
            total += alone.lower(*factors).cost_analysis()["flops"]
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                total += count_products(inner)
    return total


@pytest.mark.parametrize(("n", "kernel"), list(itertools.product([1, 2, 7], [1, 3, 5])))
def test_convolution_counts_pairs_inside_the_image(n, kernel):
    """Counts by brute force, along one axis, the outputs and taps whose input is in the image."""
    taps = range(-(kernel // 2), kernel // 2 + 1)
    pairs = sum(0 <= position + tap < n for position in range(n) for tap in taps)
    product = operations.convolution("", n, n, inputs=3, outputs=4, kernel=kernel)
    assert product.forward == 2 * pairs**2 * 3 * 4
    assert product.backward == 2 * product.forward


@pytest.mark.parametrize("case", CASES)
def test_training_step_has_exactly_these_products(case):
    keys, image_shape = CASES[case]
    config = default.get_config()
    config.update_from_flattened_dict(keys)
    model, traced = lowered_step(config, image_shape, batch_size=2)
    expected = 2 * operations.count_training(operations.vae_products(model))
    assert count_products(traced.jaxpr.jaxpr) == expected


def test_elementwise_operations_are_few():
    """XLA's count of the whole step is a few per cent higher, because of elementwise operations."""
    config = demo.get_config()
    model, traced = lowered_step(config, (28, 28, 1), config.train.batch_size)
    by_xla = traced.lower().cost_analysis()["flops"] / config.train.batch_size
    counted = operations.count_training(operations.vae_products(model))
    assert counted < by_xla < 1.03 * counted


def test_names_of_layers_and_forward_pass():
    """Without padding, the products of a layer are its parameters times the positions."""
    config = default.get_config()
    config.update_from_flattened_dict(VECTOR)
    model = experiment.build(config, (16, 16, 1)).model
    products = {p.name: p.forward for p in operations.vae_products(model)}
    assert products["encoder/head"] == 2 * (4 * 4 * 16) * (2 * 5)
    assert products["decoder/stem"] == 2 * 5 * (4 * 4 * 16)
    assert products["encoder/downsample_1"] == 2 * (4 * 4) * (4 * 8) * 16
    assert len(products) == len(operations.vae_products(model))
    assert sum(products.values()) == operations.count_forward(operations.vae_products(model))


def test_perceptron():
    """784-500-20-500-784 and its two heads, written out."""
    products = operations.perceptron_products((784, 500), latents=20)
    forward = [2 * 784 * 500, 2 * 500 * 40, 2 * 20 * 500, 2 * 500 * 784]
    assert [p.forward for p in products] == forward
    assert operations.count_training(products) == 3 * sum(forward) - forward[0]
