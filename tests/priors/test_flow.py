"""Tests of vae_jax/priors/flow.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.distributions import standard_normal_log_prob
from vae_jax.priors.flow import MAX_LOG_SCALE, Flow

SHAPES = {
    "vector": (5,),
    "grid": (4, 4, 2),
    "odd grid": (7, 7, 3),
    "one channel": (3, 3, 1),
    "one position": (1, 1, 3),
}
SMALL = {name: shape for name, shape in SHAPES.items() if math.prod(shape) < 40}
every_shape = pytest.mark.parametrize("latent_shape", SHAPES.values(), ids=SHAPES)
every_small_shape = pytest.mark.parametrize("latent_shape", SMALL.values(), ids=SMALL)


def create(latent_shape: tuple[int, ...], **arguments) -> Flow:
    return Flow(latent_shape, **({"num_couplings": 2, "width": 8} | arguments))


@functools.cache
def initial_params(flow: Flow) -> dict:
    z = jnp.zeros((1, *flow.latent_shape))
    return jax.jit(lambda key: flow.init(key, z, method="log_prob"))(jax.random.key(0))["params"]


def random_params(flow: Flow, scale: float = 0.1) -> dict:
    """Parameters with noise on every one, so that no coupling is the identity.

    Noise much above 0.1 compounds to latents in the hundreds.
    """
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: p + jnp.asarray(scale * rng.normal(size=p.shape), p.dtype), initial_params(flow)
    )


def normal(latent_shape: tuple[int, ...], num_samples: int = 6, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_samples, *latent_shape)).astype(np.float32)


def bind(flow: Flow, params: dict, method: str):
    """The method as a compiled function of its arrays."""
    return jax.jit(lambda *arguments: flow.apply({"params": params}, *arguments, method=method))


def jacobians(forward, z: np.ndarray) -> jax.Array:
    """du/dz of each row, [B, D, D]: rows of a matrix are components of u."""

    def one_row(flat):
        return forward(flat.reshape(1, *z.shape[1:]))[0].ravel()

    return jax.jit(jax.vmap(jax.jacfwd(one_row)))(z.reshape(len(z), -1))


# The map and its inverse


def test_noise_of_latents_is_where_the_flow_takes_them():
    flow = create((4,))
    params = random_params(flow)
    z = normal((4,))
    noise = bind(flow, params, "to_noise")(z)
    np.testing.assert_array_equal(noise, bind(flow, params, "forward")(z)[0])
    np.testing.assert_allclose(bind(flow, params, "from_noise")(noise), z, atol=1e-4)
    cold = flow.apply({"params": params}, jax.random.key(0), 1, 0.0, method="sample")
    at_zero = bind(flow, params, "from_noise")(np.zeros((1, 4), np.float32))
    np.testing.assert_allclose(at_zero, cold, atol=1e-5)


@every_shape
def test_inverse_undoes_forward_which_is_not_linear(latent_shape):
    flow = create(latent_shape)
    params = random_params(flow)
    forward, inverse = bind(flow, params, "forward"), bind(flow, params, "from_noise")
    z = normal(latent_shape)
    u, log_det = forward(z)
    assert (u.shape, u.dtype) == (z.shape, jnp.float32)
    assert (log_det.shape, log_det.dtype) == ((len(z),), jnp.float32)
    assert jnp.ptp(log_det) > 0.01  # a linear map's is the same everywhere
    np.testing.assert_allclose(inverse(u), z, atol=1e-5)


@every_small_shape
def test_log_det_is_that_of_the_jacobian_by_automatic_differentiation(latent_shape):
    flow = create(latent_shape, num_couplings=4)
    forward = bind(flow, random_params(flow), "forward")
    z = normal(latent_shape)
    _, expected = np.linalg.slogdet(np.asarray(jacobians(forward, z), np.float64))
    np.testing.assert_allclose(forward(z)[1], expected, atol=1e-4)


@pytest.mark.parametrize("latent_shape", [(5,), (4, 4, 2), (3, 3, 1)])
def test_couplings_transform_every_dimension_by_means_of_others(latent_shape):
    flow = create(latent_shape, num_couplings=4)
    # Without linear maps a dimension that no coupling transforms has a unit vector for its row, and
    # one that no coupling looks at has only the diagonal in its column.
    params = {
        name: jnp.eye(latent_shape[-1]) if name.startswith("matrix_") else value
        for name, value in random_params(flow).items()
    }
    jacobian = np.asarray(jacobians(bind(flow, params, "forward"), normal(latent_shape)))
    diagonal = np.einsum("bii->bi", jacobian)
    assert (np.abs(diagonal - 1.0).max(axis=0) > 1e-3).all()
    others = np.abs(jacobian - diagonal[:, None] * np.eye(diagonal.shape[1])).max(axis=0)
    assert (others.max(axis=0) > 1e-3).all() and (others.max(axis=1) > 1e-3).all()


def test_linear_maps_mix_all_channels():
    flow = create((5,))
    jacobian = jacobians(bind(flow, initial_params(flow), "forward"), normal((5,)))
    assert (np.abs(jacobian).max(axis=0) > 1e-3).all()


def test_scales_stay_bounded_for_enormous_parameters():
    flow = create((2,))
    params = jax.tree.map(lambda p: 1e3 * p, random_params(flow))
    params |= {name: jnp.eye(2) for name in params if name.startswith("matrix_")}
    _, log_det = bind(flow, params, "forward")(normal((2,)))
    # Each coupling scales one dimension of the two.
    assert jnp.abs(log_det).max() <= flow.num_couplings * MAX_LOG_SCALE * (1.0 + 1e-6)
    assert jnp.abs(log_det).max() > MAX_LOG_SCALE


@every_shape
def test_starts_as_a_rotation_of_the_standard_normal(latent_shape):
    flow = create(latent_shape)
    z = normal(latent_shape)
    log_prob = bind(flow, initial_params(flow), "log_prob")(z)
    np.testing.assert_allclose(log_prob, standard_normal_log_prob(z), rtol=1e-5)


@pytest.mark.parametrize("latent_shape", [(1,), (1, 1, 1)])
def test_a_single_dimension_is_refused(latent_shape):
    with pytest.raises(ValueError, match=r"model\.latent_shape = \(1,.*prior\.name.*'mixture'"):
        create(latent_shape).init(
            jax.random.key(0), jnp.zeros((1, *latent_shape)), method="forward"
        )


# The density and its samples


@pytest.fixture(scope="module")
def plane() -> dict:
    """A flow far from N(0, I) in two dimensions, its samples, and its density on a fine grid."""
    flow = create((2,))
    params = random_params(flow, scale=0.2)
    sample = jax.jit(
        lambda key: flow.apply({"params": params}, key, 20_000, method="sample"),
    )
    samples = np.asarray(sample(jax.random.key(1)), np.float64)
    # Half as far again as the farthest sample: almost no mass is beyond.
    axis = np.linspace(-1.5, 1.5, 501) * np.abs(samples).max()
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_prob = bind(flow, params, "log_prob")(points.astype(np.float32))
    masses = np.exp(np.asarray(log_prob, np.float64)) * (axis[1] - axis[0]) ** 2
    return {
        "flow": flow,
        "params": params,
        "samples": samples,
        "points": points,
        "masses": masses,
        "log_prob": np.asarray(log_prob, np.float64),
    }


def test_density_integrates_to_one(plane):
    assert abs(plane["masses"].sum() - 1.0) < 1e-3


def test_samples_have_the_density(plane):
    statistics = {
        "first mean": lambda z: z[:, 0],
        "second mean": lambda z: z[:, 1],
        "first square": lambda z: z[:, 0] ** 2,
        "second square": lambda z: z[:, 1] ** 2,
        "product": lambda z: z[:, 0] * z[:, 1],
        "first oscillation": lambda z: np.cos(2.0 * z[:, 0]),
        "second oscillation": lambda z: np.sin(2.0 * z[:, 1]),
        "quadrant": lambda z: np.tanh(z[:, 0]) * np.tanh(z[:, 1]),
    }
    noise = np.random.default_rng(2).normal(size=plane["samples"].shape)
    normal_differs = False
    for name, statistic in statistics.items():
        expected = (plane["masses"] * statistic(plane["points"])).sum()
        values, normal_values = statistic(plane["samples"]), statistic(noise)
        standard_error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - expected) < 4.0 * standard_error, name
        normal_differs |= abs(normal_values.mean() - expected) > 20.0 * standard_error
    assert normal_differs  # or N(0, I) samples would have passed


def test_mean_log_prob_of_samples_is_minus_the_entropy(plane):
    expected = (plane["masses"] * plane["log_prob"]).sum()
    values = bind(plane["flow"], plane["params"], "log_prob")(plane["samples"].astype(np.float32))
    assert abs(values.mean() - expected) < 4.0 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("latent_shape", [(5,), (4, 4, 2)])
def test_temperature_scales_the_base_noise(latent_shape):
    flow = create(latent_shape)
    params = random_params(flow)
    forward, inverse = bind(flow, params, "forward"), bind(flow, params, "from_noise")

    @jax.jit
    def sample(temperature):
        return flow.apply({"params": params}, jax.random.key(1), 3, temperature, method="sample")

    assert sample(1.0).shape == (3, *latent_shape)
    np.testing.assert_allclose(sample(0.0), inverse(jnp.zeros((3, *latent_shape))), atol=1e-6)
    noise, _ = forward(sample(1.0))
    assert not np.allclose(noise[0], noise[1])
    np.testing.assert_allclose(forward(sample(0.5))[0], 0.5 * noise, atol=1e-5)


# Learning


@pytest.mark.parametrize("latent_shape", [(5,), (4, 4, 2)])
def test_every_parameter_has_a_gradient(latent_shape):
    flow = create(latent_shape)
    z = normal(latent_shape)

    @jax.jit
    @jax.grad
    def gradients(params):
        return flow.apply({"params": params}, z, method="log_prob").mean()

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(random_params(flow))):
        assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 1e-4, path


def test_loss_is_minus_the_log_prob_which_needs_no_keys():
    flow = create((5,))
    z, params = normal((5,)), random_params(flow)
    loss, log_prob = bind(flow, params, "loss")(z, jax.random.key(1))
    np.testing.assert_allclose(log_prob, bind(flow, params, "log_prob")(z), rtol=1e-6)
    np.testing.assert_array_equal(loss, -log_prob)
    assert flow.is_exact


def two_moons(num_samples: int, seed: int) -> np.ndarray:
    """Points near two interleaved half circles of radius 1, float32 [N, 2]."""
    rng = np.random.default_rng(seed)
    angle, is_lower = rng.uniform(0.0, np.pi, num_samples), rng.random(num_samples) < 0.5
    sign = np.where(is_lower, -1.0, 1.0)
    centre = np.where(is_lower[:, None], [0.5, 0.25], [-0.5, -0.25])
    circle = np.stack([np.cos(angle), sign * np.sin(angle)], axis=-1)
    return (centre + circle + 0.1 * rng.normal(size=circle.shape)).astype(np.float32)


def test_learns_two_moons_better_than_any_gaussian_does():
    flow = create((2,), width=32, num_blocks=2)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, z):
        gradient = jax.grad(lambda p: -flow.apply({"params": p}, z, method="log_prob").mean())
        updates, state = optimizer.update(gradient(params), state)
        return optax.apply_updates(params, updates), state

    params = initial_params(flow)
    state = optimizer.init(params)
    for i in range(300):
        params, state = step(params, state, two_moons(256, seed=i))
    held_out = two_moons(4000, seed=300)
    # The Gaussian is fitted to the points that it is evaluated on.
    _, log_det = np.linalg.slogdet(2.0 * np.pi * np.e * np.cov(held_out.T, bias=True))
    assert bind(flow, params, "log_prob")(held_out).mean() > -0.5 * log_det + 0.3
