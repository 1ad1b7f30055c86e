"""Tests of vae_jax/models/."""

import math
import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import blocks
from vae_jax.models import VAE, check_shapes, parameter_table

MODELS = {
    "vector": {"image_shape": (28, 28, 1), "latent_shape": (5,)},
    "grid": {"image_shape": (32, 32, 3), "latent_shape": (8, 8, 2)},
    "three stages": {
        "image_shape": (64, 64, 3),
        "latent_shape": (4, 4, 3),
        "widths": (4, 8, 6),
        "patch_size": 4,
    },
    "one stage": {"image_shape": (8, 12, 1), "latent_shape": (3,), "widths": (4,), "patch_size": 1},
    "learned scale": {"image_shape": (8, 8, 1), "latent_shape": (2, 2, 1), "has_log_std": True},
}


def create(**arguments) -> VAE:
    defaults = {
        "image_shape": (8, 8, 1),
        "latent_shape": (3,),
        "num_outputs": 7,
        "widths": (4, 8),
    }
    arguments = defaults | arguments
    return VAE(**({"num_blocks": (1,) * len(arguments["widths"])} | arguments))


def init_shapes(model: VAE) -> dict:
    """Returns shapes and types of the parameters without computing them."""
    x = jnp.zeros((1, *model.image_shape))
    return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


def random_params(model: VAE) -> dict:
    """Returns parameters without zeros, so that no path is switched off."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), p.dtype), init_shapes(model)
    )


def count_parameters(params) -> int:
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))


# Shapes and types


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("arguments", MODELS.values(), ids=MODELS)
def test_shapes_and_float32_parameters_and_outputs(arguments, dtype):
    model = create(**arguments, dtype=dtype, attention_resolutions=(8,))
    params = init_shapes(model)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    q = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, x, method="encode"),
        params,
        jnp.zeros((2, *model.image_shape)),
    )
    outputs = jax.eval_shape(
        lambda p, z: model.apply({"params": p}, z, method="decode"), params, q.mean
    )
    for array in (q.mean, q.log_std):
        assert (array.shape, array.dtype) == ((2, *model.latent_shape), jnp.float32)
    assert (outputs.shape, outputs.dtype) == ((2, *model.image_shape[:2], 7), jnp.float32)


def test_bfloat16_activations_are_those_of_float32_up_to_rounding():
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    params = random_params(create())
    full, half = (
        jax.jit(create(dtype=dtype).apply)({"params": params}, x)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert not np.array_equal(full, half)
    # bfloat16 rounds to 1 / 256 relative, again at each of about ten layers.
    assert jnp.abs(full - half).max() < 0.05 * jnp.abs(full).max()


@pytest.mark.parametrize("latent_shape", [(3,), (2, 2, 3)])
def test_images_and_latents_do_not_depend_on_their_batch(latent_shape):
    model = create(latent_shape=latent_shape, attention_resolutions=(4,))
    params, rng = random_params(model), np.random.default_rng(1)
    x = rng.uniform(size=(3, 8, 8, 1)).astype(np.float32)
    z = rng.normal(size=(3, *latent_shape)).astype(np.float32)

    # Copied: JAX may still be reading a NumPy array when the next line writes to it.
    def apply(x, z):
        return jitted(jnp.array(x, copy=True), jnp.array(z, copy=True))

    @jax.jit
    def jitted(x, z):
        q = model.apply({"params": params}, x, method="encode")
        return q.mean, q.log_std, model.apply({"params": params}, z, method="decode")

    before = apply(x, z)
    for others in (0.5, 100.0, np.nan):
        x[[0, 2]], z[[0, 2]] = others, others
        for a, b in zip(before, apply(x, z), strict=True):
            np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-6)
            assert not np.allclose(a[0], b[0])


def test_posterior_std_is_positive_and_finite_for_enormous_activations():
    raw = np.array([-1e30, -100.0, 0.0, 100.0, 1e30])
    model = create(latent_shape=(5,), widths=(4,), patch_size=4)
    params = flax.traverse_util.flatten_dict(random_params(model), sep="/")
    params["encoder/head/kernel"] = jnp.zeros_like(params["encoder/head/kernel"])
    params["encoder/head/bias"] = jnp.asarray([0.0] * 5 + raw.tolist())
    params = flax.traverse_util.unflatten_dict(params, sep="/")

    @jax.jit
    def encode(params):
        return model.apply({"params": params}, jnp.ones((1, 8, 8, 1)), method="encode")

    q = encode(params)
    np.testing.assert_allclose(q.std, np.logaddexp(0, raw)[None] + 1e-4, rtol=1e-4)
    gradient = jax.grad(lambda params: encode(params).log_std.sum())(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves((q, gradient)))


def test_log_std_is_one_parameter_for_all_pixels_and_images():
    model = create(has_log_std=True)
    params = random_params(model)
    params["decoder"]["log_std"] = jnp.asarray(-2.5)
    decode = jax.jit(lambda z: model.apply({"params": params}, z, method="decode"))
    outputs = decode(jnp.ones((2, 3)))
    np.testing.assert_array_equal(outputs[..., -1], np.full((2, 8, 8), -2.5))
    assert (outputs[..., :-1] != -2.5).all()
    assert "log_std" not in init_shapes(create())["decoder"]


# Blocks


@pytest.mark.parametrize(
    ("factor", "shape"), [(1, (2, 3, 4, 2)), (2, (2, 4, 6, 3)), (3, (1, 6, 3, 1))]
)
def test_space_to_depth_lists_the_pixels_of_each_patch(factor, shape):
    x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    b, h, w, c = shape
    expected = np.zeros((b, h // factor, w // factor, factor**2 * c), np.float32)
    for i in range(h):
        for j in range(w):
            first = ((i % factor) * factor + j % factor) * c
            expected[:, i // factor, j // factor, first : first + c] = x[:, i, j]
    actual = blocks.space_to_depth(jnp.asarray(x), factor)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(blocks.depth_to_space(actual, factor), x)


@pytest.mark.parametrize("block", [blocks.ResidualBlock(), blocks.AttentionBlock(num_heads=2)])
def test_block_starts_as_the_identity_and_can_leave_it(block):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    apply = jax.jit(lambda params: block.apply({"params": params}, x))
    np.testing.assert_array_equal(apply(params), x)
    gradient = jax.grad(lambda params: (apply(params) ** 2).sum())(params)
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(gradient)) > 1e-3


@pytest.mark.parametrize("width", [1, 3, 4, 6, 8, 12, 24, 64, 96, 128, 256])
def test_group_norm_takes_the_most_groups_of_at_least_4_channels(width):
    allowed = [g for g in (1, 2, 4, 8, 16, 32) if width % g == 0 and width // g >= 4]
    assert blocks.group_norm(width, jnp.float32).num_groups == max(allowed, default=1)


@pytest.mark.parametrize("resolutions", [(), (8,), (16, 8), (4,)])
def test_attention_is_at_the_configured_resolutions(resolutions):
    # Stages at resolutions 16 and 8.
    model = create(image_shape=(32, 32, 3), attention_resolutions=resolutions)
    paths = flax.traverse_util.flatten_dict(init_shapes(model))
    found = {path[:2] for path in paths if any("Attention" in name for name in path)}
    expected = {
        (side, stage)
        for side in ("encoder", "decoder")
        for stage, resolution in (("stage_0", 16), ("stage_1", 8))
        if resolution in resolutions
    }
    assert found == expected


def test_num_blocks_is_the_number_of_residual_blocks_of_each_stage():
    params = init_shapes(create(num_blocks=(0, 3)))
    for side in ("encoder", "decoder"):
        assert "stage_0" not in params[side]
        assert set(params[side]["stage_1"]) == {f"ResidualBlock_{i}" for i in range(3)}


# Checks and summary


@pytest.mark.parametrize(
    ("image_shape", "latent_shape", "widths", "patch_size"),
    [
        ((28, 28, 1), (32,), (4, 8), 2),
        ((28, 28, 1), (7, 7, 2), (4, 8), 2),
        ((64, 48, 3), (4, 3, 2), (4, 8, 8), 4),
        ((5, 5, 1), (1,), (4,), 1),
    ],
)
def test_fitting_shapes_are_accepted(image_shape, latent_shape, widths, patch_size):
    model = create(
        image_shape=image_shape,
        latent_shape=latent_shape,
        widths=widths,
        patch_size=patch_size,
    )
    check_shapes(model)
    outputs, _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, *image_shape))
    )
    assert outputs.shape == (1, *image_shape[:2], 7)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"widths": (4, 8, 8)},
            "3 model.widths divides images by 8, but 28x28 is not a multiple of 8",
        ),
        ({"patch_size": 3}, "model.patch_size = 3 with 2 model.widths divides images by 6"),
        ({"image_shape": (28, 30, 1)}, "but 28x30 is not a multiple of 4"),
        ({"latent_shape": (7, 7)}, "model.latent_shape = \\(7, 7\\) must be \\(D,\\)"),
        ({"latent_shape": ()}, "model.latent_shape = \\(\\) must be"),
        ({"latent_shape": (0,)}, "model.latent_shape = \\(0,\\) must be"),
        ({"num_blocks": (1,)}, "model.num_blocks = \\(1,\\) must have one number"),
        ({"num_blocks": (1, -1)}, "model.num_blocks = \\(1, -1\\) must have one number"),
        ({"attention_resolutions": (8,)}, "must be heights of stages .* {14: 4, 7: 8}"),
        ({"attention_resolutions": (7,), "widths": (4, 6)}, "multiple of 4: .* {14: 4, 7: 6}"),
        ({"latent_shape": (4, 4, 8)}, "must begin with the last stage's resolution \\(7, 7\\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, match):
    arguments = {
        "image_shape": (28, 28, 1),
        "latent_shape": (32,),
        "widths": (4, 8),
        "patch_size": 2,
    }
    with pytest.raises(ValueError, match=match):
        check_shapes(create(**(arguments | change)))


def test_parameter_table_counts_every_parameter_once():
    params = init_shapes(create(image_shape=(32, 32, 3), has_log_std=True))
    header, _, *rows, total = parameter_table(params).splitlines()
    assert header == "| module | parameters | share |"
    assert total == f"| total | {count_parameters(params):,} | |"
    counts = dict(re.fullmatch(r"\| (\S+) \| ([\d,]+) \| [\d.]+% \|", row).groups() for row in rows)
    expected = {
        f"{side}/{module}": f"{count_parameters(module_params):,}"
        for side, modules in params.items()
        for module, module_params in modules.items()
    }
    assert counts == expected
    shares = [float(row.split("|")[3].strip().rstrip("%")) for row in rows]
    np.testing.assert_allclose(sum(shares), 100, atol=0.05 * len(rows))


@pytest.mark.long
def test_rematerialisation_changes_memory_and_nothing_else():
    def create(remat: bool) -> VAE:
        return VAE(
            (8, 8, 1),
            (2, 2, 3),
            num_outputs=2,
            widths=(8,),
            num_blocks=(1,),
            patch_size=4,
            attention_resolutions=(2,),
            remat=remat,
        )

    x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    params, remat_params = (jax.jit(create(remat).init)(jax.random.key(1), x) for remat in (0, 1))
    assert jax.tree.structure(params) == jax.tree.structure(remat_params)
    # Blocks end in zeros, which would hide everything before them.
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)

    def grads(remat: bool):
        return jax.grad(lambda p: (create(remat).apply(p, x) ** 2).sum())

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4),
        *(jax.jit(grads(remat))(params) for remat in (False, True)),
    )
    recomputed = [str(jax.make_jaxpr(grads(remat))(params)).count("remat") for remat in (0, 1)]
    assert recomputed[0] == 0 and recomputed[1] > 0


@pytest.mark.parametrize("shape", [(3, 5, 4, 24), (3, 24)])
def test_group_norm_is_that_of_flax(shape):
    """Values and gradients, to rounding."""
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(0.7, 2.0, shape), jnp.float32) for _ in range(2))
    parameters = {
        name: jnp.asarray(rng.normal(1.0, 0.3, 24), jnp.float32) for name in ("scale", "bias")
    }
    ours = blocks.group_norm(24, jnp.float32)

    def value_and_grads(module):
        def f(parameters, x):
            return jnp.sum(slope * module.apply({"params": parameters}, x))

        return module.apply({"params": parameters}, x), jax.grad(f, argnums=(0, 1))(parameters, x)

    theirs = nn.GroupNorm(num_groups=ours.num_groups)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        value_and_grads(ours),
        value_and_grads(theirs),
    )
