"""Tests of vae_jax/optim/schedules.py."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from vae_jax.optim import schedules

FAR_BEYOND = 10**9
RISING = ("linear", "cosine", "sigmoid")


def rise(name: str, t: np.ndarray) -> np.ndarray:
    """The rise from 0 to 1 over t in [0, 1], in float64."""
    if name == "linear":
        return t
    if name == "cosine":
        return np.sin(0.5 * np.pi * t) ** 2
    return (expit(12 * t - 6) - expit(-6)) / (expit(6) - expit(-6))


def cyclical(step: int, num_steps: int, num_cycles: int, ramp_fraction: float) -> float:
    """Fu et al. 2019, equations 6 and 7, in exact arithmetic, and 1 after the last cycle."""
    if step >= num_steps:
        return 1.0
    period = Fraction(num_steps, num_cycles)
    tau = (step % period) / period
    return float(min(tau / Fraction(ramp_fraction), Fraction(1)))


def values(schedule: schedules.Schedule, num_steps: int) -> np.ndarray:
    """The schedule at steps 0 to num_steps - 1, traced as in a train step."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(num_steps)), np.float64)


# KL weight


@pytest.mark.parametrize("name", schedules.KL_SCHEDULES)
def test_kl_schedule_at_start_end_and_far_beyond(name):
    schedule = schedules.make_kl_schedule(name, weight=0.7, warmup_steps=100)
    assert schedule(0) == (np.float32(0.7) if name == "constant" else 0.0)
    for step in (100, 101, FAR_BEYOND, jnp.int32(FAR_BEYOND)):
        assert schedule(step) == np.float32(0.7)
        assert schedule(step).dtype == jnp.float32 and schedule(step).shape == ()


@pytest.mark.parametrize("name", schedules.KL_SCHEDULES)
def test_zero_length_warmup_is_at_full_weight_from_step_0(name):
    schedule = schedules.make_kl_schedule(name, weight=2.0, warmup_steps=0)
    assert [float(schedule(step)) for step in (0, 1, FAR_BEYOND)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("name", RISING)
def test_kl_schedule_rises_along_its_curve(name):
    schedule = schedules.make_kl_schedule(name, weight=3.0, warmup_steps=40)
    actual = values(schedule, 60)
    expected = 3.0 * rise(name, np.minimum(np.arange(60) / 40, 1.0))
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(actual[20], 1.5, rtol=1e-6)  # all are symmetric about the middle
    assert (np.diff(actual[:41]) > 0).all()


def test_constant_kl_schedule_ignores_the_warmup():
    actual = values(schedules.make_kl_schedule("constant", 0.5, warmup_steps=10), 20)
    np.testing.assert_array_equal(actual, np.full(20, 0.5))


@pytest.mark.parametrize(
    ("num_steps", "num_cycles", "ramp_fraction"),
    [(100, 4, 0.5), (60, 1, 0.25), (40, 4, 1.0), (100, 5, 0.5), (1001, 7, 0.5), (50, 3, 0.75)],
)
def test_cyclical_kl_schedule_is_that_of_fu_2019(num_steps, num_cycles, ramp_fraction):
    schedule = schedules.make_kl_schedule("cyclical", 1.0, num_steps, num_cycles, ramp_fraction)
    expected = [
        cyclical(step, num_steps, num_cycles, ramp_fraction) for step in range(num_steps + 5)
    ]
    np.testing.assert_allclose(values(schedule, num_steps + 5), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "lineal"}, "kl.schedule = 'lineal'.*constant, linear, cosine, sigmoid, cyclical"),
        ({"weight": -1.0}, "kl.weight = -1.0 .*must not be negative"),
        ({"warmup_steps": -1}, "kl.warmup_steps = -1 must not be negative"),
        ({"num_cycles": 0}, "kl.num_cycles = 0 must be at least 1"),
        ({"ramp_fraction": 0.0}, "kl.ramp_fraction = 0.0 in"),
        ({"ramp_fraction": 1.5}, "kl.ramp_fraction = 1.5 in"),
    ],
)
def test_kl_schedule_refuses(change, match):
    arguments = {"name": "cyclical", "weight": 1.0, "warmup_steps": 10} | change
    with pytest.raises(ValueError, match=match):
        schedules.make_kl_schedule(**arguments)


@pytest.mark.parametrize("name", schedules.KL_SCHEDULES)
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("warmup_steps", [0, 1, 40])
def test_end_of_the_warmup_is_where_the_weight_is_final(name, weight, warmup_steps):
    end = schedules.kl_warmup_end(name, weight, warmup_steps)
    schedule = schedules.make_kl_schedule(name, weight, warmup_steps)
    reached = values(schedule, 2 * warmup_steps + 1)
    assert (reached[end:] == np.float32(weight)).all()
    assert end == 0 or (reached[:end] != np.float32(weight)).any()


# Learning rate


@pytest.mark.parametrize("decay", schedules.LEARNING_RATE_DECAYS)
def test_learning_rate_warms_up_linearly_from_above_0_to_the_peak(decay):
    schedule = schedules.make_learning_rate_schedule(0.3, 10, decay, num_steps=1000)
    actual = values(schedule, 11)
    np.testing.assert_allclose(actual[:10], 0.03 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(actual[10], 0.3, rtol=1e-6)  # the decay has not begun yet


@pytest.mark.parametrize("decay", schedules.LEARNING_RATE_DECAYS)
@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_learning_rate_starts_at_the_peak_without_a_warmup(decay, warmup_steps):
    schedule = schedules.make_learning_rate_schedule(0.3, warmup_steps, decay, num_steps=100)
    np.testing.assert_allclose(schedule(0), 0.3, rtol=1e-6)
    assert schedule(0).dtype == jnp.float32 and schedule(0).shape == ()


def test_constant_learning_rate_stays_at_the_peak():
    schedule = schedules.make_learning_rate_schedule(0.3, 10, "constant", 100, final_fraction=0.5)
    for step in (10, 99, 100, FAR_BEYOND):
        np.testing.assert_allclose(schedule(step), 0.3, rtol=1e-6)


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
def test_cosine_learning_rate_falls_along_its_curve_and_stays_at_its_end(final_fraction):
    schedule = schedules.make_learning_rate_schedule(2.0, 20, "cosine", 100, final_fraction)
    t = np.arange(81) / 80  # of the decay, from step 20 to step 100
    expected = 2.0 * (final_fraction + (1 - final_fraction) * np.cos(0.5 * np.pi * t) ** 2)
    actual = values(schedule, 101)[20:]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert (np.diff(actual) < 0).all() == (final_fraction < 1)
    for step in (100, 101, FAR_BEYOND):
        np.testing.assert_allclose(schedule(step), 2.0 * final_fraction, atol=1e-6)


@pytest.mark.parametrize("decay", schedules.LEARNING_RATE_DECAYS)
def test_warmup_as_long_as_training_reaches_the_peak(decay):
    schedule = schedules.make_learning_rate_schedule(1.0, 10, decay, num_steps=10)
    np.testing.assert_allclose(values(schedule, 10), np.arange(1, 11) / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"decay": "cosin"}, "optim.decay = 'cosin' is unknown: use one of constant, cosine"),
        ({"peak": 0.0}, "optim.learning_rate = 0.0 must be positive"),
        ({"final_fraction": -0.1}, "optim.final_fraction = -0.1 in"),
        ({"final_fraction": 1.1}, "optim.final_fraction = 1.1 in"),
        ({"warmup_steps": -1}, "optim.warmup_steps = -1 must lie"),
        ({"warmup_steps": 101}, "optim.warmup_steps = 101 .*between 0 and 100"),
    ],
)
def test_learning_rate_schedule_refuses(change, match):
    arguments = {"peak": 1.0, "warmup_steps": 0, "decay": "cosine", "num_steps": 100} | change
    with pytest.raises(ValueError, match=match):
        schedules.make_learning_rate_schedule(**arguments)
