"""Tests of benchmarks/sampler_steps.py, with the optimal network of a Gaussian."""

import numpy as np
import pytest

from benchmarks import sampler_steps
from tests.priors.test_diffusion import GAMMA_MAX, GAMMA_MIN, Gaussian, schedule_params
from vae_jax.priors.diffusion import Diffusion
from vae_jax.priors.noise_schedule import NUM_BINS

STD = 0.5
LOGITS = {"uniform": np.zeros(NUM_BINS), "one bin": 50.0 * (np.arange(NUM_BINS) == 20)}


def bind(schedule: str) -> Diffusion:
    prior = Diffusion((2, 2, 1), Gaussian(STD))
    return prior.bind({"params": schedule_params(prior, LOGITS[schedule])})


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_steps, "SAMPLERS", {"heun": (8, 16), "ddim": (8, 16)})
        patch.setattr(sampler_steps, "NUM_REFERENCE_STEPS", 60)
        return {schedule: sampler_steps.measure(bind(schedule), 400) for schedule in LOGITS}


def errors(table, levels: str) -> dict[tuple[str, int], float]:
    """Returns {(sampler, steps): rms error} for one kind of noise levels."""
    return {(row[0], int(row[1])): float(row[4]) for row in table.rows[1:] if row[2] == levels}


def test_levels_run_between_the_ends_and_quantiles_follow_the_schedule():
    equal, quantiles = map(np.array, sampler_steps.noise_levels(bind("one bin"), 36).values())
    for gammas in (equal, quantiles):
        np.testing.assert_allclose(gammas[[0, -1]], [GAMMA_MAX, GAMMA_MIN], rtol=1e-5)
    np.testing.assert_allclose(np.diff(equal), -0.5, rtol=1e-4)
    width = (GAMMA_MAX - GAMMA_MIN) / NUM_BINS
    low = GAMMA_MIN + 20 * width
    in_bin = (quantiles > low) & (quantiles < low + width)
    assert in_bin.mean() == pytest.approx(0.8, abs=0.05)  # the other fifth is spread over all bins


def test_reference_has_the_deviation_of_the_gaussian(tables):
    assert float(tables["uniform"].rows[0][3]) == pytest.approx(STD, rel=0.05)


def test_errors_fall_at_the_order_of_the_sampler(tables):
    rms_errors = errors(tables["uniform"], "equal steps")
    assert rms_errors["heun", 8] > 3.0 * rms_errors["heun", 16]
    assert 2.5 * rms_errors["ddim", 16] > rms_errors["ddim", 8] > 1.7 * rms_errors["ddim", 16]


def test_quantiles_are_equal_steps_only_where_the_schedule_is_uniform(tables):
    equal, quantiles = (
        errors(tables["uniform"], levels) for levels in ("equal steps", "the schedule's quantiles")
    )
    assert equal == pytest.approx(quantiles, abs=0.0011)
    assert errors(tables["one bin"], "equal steps") == equal
    one_bin = errors(tables["one bin"], "the schedule's quantiles")
    assert all(one_bin[row] > 2.0 * equal[row] for row in equal)
