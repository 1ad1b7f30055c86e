"""Tests of vae_jax/optim/optimizer.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import optim


def params() -> dict:
    return {
        "kernel": jnp.asarray([[0.5, -1.0], [2.0, 3.0]]),
        "bias": jnp.asarray([1.0, -2.0]),
        "log_std": jnp.asarray(-1.0),
    }


def grads() -> dict:
    """Gradients of global norm 5."""
    return {
        "kernel": jnp.asarray([[2.0, 0.0], [0.0, -2.0]]),
        "bias": jnp.asarray([-4.0, 0.0]),
        "log_std": jnp.asarray(1.0),
    }


def constant(learning_rate: float):
    return lambda step: jnp.full((), learning_rate)


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def first_moment(opt_state) -> dict:
    return optax.tree.get(opt_state, "mu")


# Clipping


@pytest.mark.parametrize(
    ("clip_norm", "expected_norm"), [(0.0, 5.0), (2.0, 2.0), (5.5, 5.0), (1e-3, 1e-3)]
)
def test_gradients_are_clipped_by_their_global_norm(clip_norm, expected_norm):
    tx = optim.create_optimizer("adam", constant(0.1), b1=0.9, clip_norm=clip_norm)
    _, opt_state = tx.update(grads(), tx.init(params()), params())
    # After one update adam's first moment is (1 - b1) times what came through the clipping.
    clipped = jax.tree.map(lambda m: m / (1 - 0.9), first_moment(opt_state))
    np.testing.assert_allclose(optax.tree.norm(clipped), expected_norm, rtol=1e-5)
    for actual, unclipped in zip(jax.tree.leaves(clipped), jax.tree.leaves(grads()), strict=True):
        np.testing.assert_allclose(actual, unclipped * expected_norm / 5.0, rtol=1e-5)


def test_clipping_survives_a_gradient_whose_norm_overflows():
    tx = optim.create_optimizer("adam", constant(0.1), clip_norm=1.0)
    huge = jax.tree.map(lambda g: 1e30 * g, grads())
    assert jnp.isinf(optax.tree.norm(huge))
    updates, opt_state = tx.update(huge, tx.init(params()), params())
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, opt_state)))
    updates, _ = tx.update(grads(), opt_state, params())
    assert optax.tree.norm(updates) > 0


# Skipping


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_non_finite_gradient_leaves_parameters_and_moments_untouched(name):
    tx = optim.create_optimizer(name, constant(0.1), clip_norm=1.0)
    update = jax.jit(tx.update)
    _, before = update(grads(), tx.init(params()), params())
    for leaf, index in [("kernel", (1, 0)), ("log_std", ())]:
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = grads() | {leaf: grads()[leaf].at[index].set(bad)}
            updates, after = update(spoilt, before, params())
            assert_trees_equal(optax.apply_updates(params(), updates), params())
            assert_trees_equal(after.inner_state, before.inner_state)
            assert [int(n) for n in optim.num_skipped(after)] == [1, 1]
    updates, after = update(grads(), after, params())
    assert all((u != 0).any() for u in jax.tree.leaves(updates))
    assert [int(n) for n in optim.num_skipped(after)] == [0, 1]


def test_100_non_finite_gradients_in_a_row_are_all_skipped_and_counted():
    tx = optim.create_optimizer("adam", constant(0.1))
    update = jax.jit(tx.update)
    _, before = update(grads(), tx.init(params()), params())
    spoilt, opt_state, current = grads() | {"log_std": jnp.asarray(jnp.nan)}, before, params()
    for _ in range(100):
        updates, opt_state = update(spoilt, opt_state, current)
        current = optax.apply_updates(current, updates)
    assert_trees_equal(current, params())
    assert_trees_equal(opt_state.inner_state, before.inner_state)
    assert [int(n) for n in optim.num_skipped(opt_state)] == [100, 100]


# Learning rate and weight decay


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_learning_rate_is_that_of_the_number_of_applied_updates(name):
    tx = optim.create_optimizer(name, lambda count: 0.1 * (count + 1.0), b1=0.5, b2=0.75)
    update = jax.jit(tx.update)
    opt_state, num_applied = tx.init(params()), 0
    # With one gradient g all along, bias correction makes each step -rate * g / |g|.
    for is_finite in (True, False, True, False, False, True):
        scale = 1.0 if is_finite else jnp.nan
        updates, opt_state = update(
            jax.tree.map(lambda g, s=scale: s * g, grads()), opt_state, params()
        )
        rate = 0.1 * (num_applied + 1) if is_finite else 0.0
        for actual, g in zip(jax.tree.leaves(updates), jax.tree.leaves(grads()), strict=True):
            np.testing.assert_allclose(actual, -rate * np.sign(g), rtol=1e-5, atol=1e-7)
        num_applied += is_finite


def test_weight_decay_acts_on_arrays_of_two_or_more_axes_only():
    rate, weight_decay = 0.5, 0.1
    tx = optim.create_optimizer("adamw", constant(rate), weight_decay=weight_decay)
    weights = params() | {"convolution": jnp.ones((3, 3, 2, 4))}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, weights), tx.init(weights), weights)
    for name in ("kernel", "convolution"):
        np.testing.assert_allclose(updates[name], -rate * weight_decay * weights[name], rtol=1e-6)
    for name in ("bias", "log_std"):
        np.testing.assert_array_equal(updates[name], jnp.zeros_like(weights[name]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "sgd"}, "optim.name = 'sgd' is unknown: use one of adam, adamw, adamax"),
        ({"name": "adam", "weight_decay": 0.1}, "optim.weight_decay = 0.1 has no effect.*'adam'"),
        ({"name": "adam", "clip_norm": -1.0}, "optim.clip_norm = -1.0 must not be negative"),
        ({"name": "adamw", "weight_decay": -0.1}, "optim.weight_decay = -0.1"),
    ],
)
def test_optimizer_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        optim.create_optimizer(learning_rate=constant(0.1), **arguments)


# Average of the parameters


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_ema_is_the_warmed_up_recursion(decay):
    num_steps = 30  # the warm-up (1 + t) / (10 + t) passes 0.5 at t = 8
    walk = np.random.default_rng(0).normal(size=(num_steps, 3)).cumsum(axis=0).astype(np.float32)
    update = jax.jit(optim.update_ema)
    ema, expected = {"a": {"b": jnp.ones(3)}}, np.ones(3)
    for t, value in enumerate(walk):
        ema = update(ema, {"a": {"b": value}}, jnp.int32(t), decay)
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * value.astype(np.float64)
        np.testing.assert_allclose(ema["a"]["b"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_ema_without_warmup_remembers_its_start_as_a_power_of_the_decay(decay):
    """After n updates it is d^n times the start plus (1 - d) d^k times the values k updates ago."""
    num_steps = 40
    walk = np.random.default_rng(0).normal(size=(num_steps, 3)).cumsum(axis=0).astype(np.float32)
    update = jax.jit(lambda e, p, t: optim.update_ema(e, p, t, decay, warmup=False))
    start = np.float32([5.0, -3.0, 1.0])
    ema = {"a": jnp.asarray(start)}
    for t, value in enumerate(walk):
        ema = update(ema, {"a": value}, jnp.int32(t))
    weights = (1.0 - decay) * float(decay) ** np.arange(num_steps)[::-1]
    expected = decay**num_steps * start + weights @ walk.astype(np.float64)
    np.testing.assert_allclose(ema["a"], expected, rtol=1e-5, atol=1e-5)
    if decay == 0.999:  # the start is nearly all of it
        assert np.abs(ema["a"] - start).max() < 0.1 * np.abs(walk[-1] - start).max()


def test_ema_of_constant_parameters_is_those_parameters():
    ema = params()
    for step in (0, 10, 10**6):
        ema = optim.update_ema(ema, params(), jnp.int32(step), 0.999)
    for actual, expected in zip(jax.tree.leaves(ema), jax.tree.leaves(params()), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("warmup", [True, False])
def test_constant_parameters_are_not_changed_by_rounding(warmup):
    """Thousands of roundings would otherwise change the parameters of a frozen VAE."""
    values = {"a": jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)}
    update = jax.jit(lambda e, p, t: optim.update_ema(e, p, t, 0.999, warmup))
    ema = values
    for step in (0, 1, 2, 7, 1000, 10**6):
        ema = update(ema, values, jnp.int32(step))
        assert_trees_equal(ema, values)
