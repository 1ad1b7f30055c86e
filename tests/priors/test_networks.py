"""Tests of vae_jax/priors/networks.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.priors import networks
from vae_jax.priors.networks import MLP, UNet


def create_unet(widths=(8,), attention_resolutions=(), num_blocks=1, dtype=jnp.float32):
    return UNet(widths, num_blocks, attention_resolutions, dtype)


NETWORKS = {
    "vector": ((5,), functools.partial(MLP, 8, 2)),
    "one level": ((7, 7, 4), create_unet),
    "two levels": ((8, 8, 3), functools.partial(create_unet, (8, 16), (4,))),
}
every_network = pytest.mark.parametrize("shape, create", NETWORKS.values(), ids=NETWORKS)


def inputs(shape, num_rows=3):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(num_rows, *shape)).astype(np.float32)
    return z, np.linspace(-9.0, 7.0, num_rows, dtype=np.float32)


def random_variables(network, shape):
    """Returns parameters without zeros, unlike initial ones, and compiles nothing."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
        else:
            values = 0.2 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
        return jnp.asarray(values, leaf.dtype)

    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs(shape))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@every_network
def test_predicts_zeros_of_the_latent_shape_at_first(shape, create):
    network = create(dtype=jnp.float32)
    z, gamma = inputs(shape)
    outputs, _ = jax.jit(network.init_with_output)(jax.random.key(0), z, gamma)
    assert outputs.dtype == jnp.float32
    np.testing.assert_array_equal(outputs, np.zeros_like(z))


@every_network
def test_bfloat16_is_for_activations_only(shape, create):
    z, gamma = inputs(shape)
    variables = random_variables(create(dtype=jnp.float32), shape)
    outputs = jax.jit(create(dtype=jnp.float32).apply)(variables, z, gamma)
    network = create(dtype=jnp.bfloat16)
    rough = jax.jit(network.apply)(variables, z, gamma)
    assert rough.dtype == jnp.float32
    parameters = jax.tree.leaves(random_variables(network, shape))
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype(jnp.float32)}
    # bfloat16 has 8 significant bits, and float32 24.
    error = jnp.abs(rough - outputs).max() / jnp.abs(outputs).max()
    assert 2.0**-12 < error < 0.1


@every_network
def test_rows_have_their_own_noise_levels_and_do_not_affect_each_other(shape, create):
    network = create(dtype=jnp.float32)
    variables = random_variables(network, shape)
    apply = jax.jit(network.apply)
    z, gamma = inputs(shape)
    outputs = apply(variables, z, gamma)
    swapped = apply(variables, z[[0, 2, 1]], gamma[[0, 2, 1]])
    np.testing.assert_allclose(swapped, outputs[jnp.array([0, 2, 1])], atol=1e-5)
    others = apply(variables, z[[0, 0, 0]], gamma[[0, 1, 2]])
    np.testing.assert_allclose(others[0], outputs[0], atol=1e-5)
    # A near and a far noise level change the whole output.
    for change in (0.1, 5.0):
        moved = jnp.abs(apply(variables, z, gamma + change) - outputs)
        assert (moved.max(axis=-1) > 1e-5).all()


@every_network
def test_every_parameter_has_a_gradient(shape, create):
    network = create(dtype=jnp.float32)
    z, gamma = inputs(shape)
    target = np.random.default_rng(2).normal(size=z.shape)

    @jax.jit
    @jax.grad
    def gradients(variables):
        return ((network.apply(variables, z, gamma) - target) ** 2).sum()

    leaves = jax.tree_util.tree_leaves_with_path(gradients(random_variables(network, shape)))
    for path, gradient in leaves:
        assert jnp.isfinite(gradient).all(), path
        # Softmax ignores a constant that is added to the scores of all keys.
        if [entry.key for entry in path[-2:]] != ["key", "bias"]:
            assert jnp.abs(gradient).max() > 1e-4, path


def position_dependence(network, shape) -> np.ndarray:
    """Largest |d output / d input| between positions, [outputs, inputs]."""
    z, gamma = inputs(shape, num_rows=1)
    variables = random_variables(network, shape)

    @jax.jit
    @jax.jacrev
    def jacobian(flat):
        return network.apply(variables, flat.reshape(z.shape), gamma).ravel()

    channels = shape[-1]
    positions = z.size // channels
    absolute = np.abs(jacobian(z.ravel())).reshape(positions, channels, positions, channels)
    return absolute.max(axis=(1, 3))


@pytest.fixture
def no_group_norm(monkeypatch):
    """Group norms take means over all positions, and would hide that nothing else joins them."""
    monkeypatch.setattr(networks, "group_norm", lambda width, dtype: lambda x: x)


@pytest.mark.parametrize(("shape", "widths"), [((7, 7, 4), (8,)), ((8, 8, 3), (8, 16))])
def test_every_position_depends_on_every_other(no_group_norm, shape, widths):
    # One block reaches far enough: 1 pixel for the stem, 2 for each block, 1 for the head, and
    # twice that at half the resolution.
    assert (position_dependence(create_unet(widths), shape) > 0.0).all()


def test_attention_joins_what_convolutions_do_not(no_group_norm):
    shape = (12, 12, 1)  # one level of one block joins positions that are 8 pixels apart
    elsewhere = create_unet(attention_resolutions=(6, 24))
    corner = position_dependence(elsewhere, shape)[0].reshape(12, 12)
    assert (corner[:9, :9] > 0.0).all()
    assert (corner[9:] == 0.0).all() and (corner[:, 9:] == 0.0).all()
    assert (position_dependence(create_unet(attention_resolutions=(12,)), shape) > 0.0).all()


def test_vector_components_depend_on_each_other(no_group_norm):
    z, gamma = inputs((5,), num_rows=1)
    network = MLP(8, 1, jnp.float32)
    variables = random_variables(network, (5,))
    jacobian = jax.jacrev(lambda z: network.apply(variables, z[None], gamma)[0])(z[0])
    assert (jnp.abs(jacobian) > 1e-4).all()


def test_blocks_start_as_the_identity():
    for shape in ((8,), (4, 4, 8)):
        x, _ = inputs(shape)
        block = networks.ModulatedBlock(jnp.float32)
        embedding = np.ones((len(x), 6), np.float32)
        outputs, _ = jax.jit(block.init_with_output)(jax.random.key(0), x, embedding)
        np.testing.assert_array_equal(outputs, x)
