"""Tests of benchmarks/two_moons.py, and through it of all priors: do they learn an odd density?

Every prior is compared with the density of the moons and with the Gaussian of their moments.
"""

import functools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import two_moons
from vae_jax import priors
from vae_jax.metrics.two_sample import nearest_neighbour_accuracy

# Far from converged, but every prior is well within the bounds below.
NUM_STEPS = {"vamp": 300, "mixture": 800, "ex_post_mixture": 0, "flow": 1000, "diffusion": 1500}
NUM_LATENTS, NUM_SAMPLES = 4000, 1000

TRAIN, HELD_OUT = (two_moons.draw_moons(NUM_LATENTS, seed) for seed in range(2))
TRUE_LOG_PROBS = two_moons.moons_log_prob(HELD_OUT)
GAUSSIAN = two_moons.Gaussian(TRAIN)
GAUSSIAN_SAMPLES = GAUSSIAN.draw(NUM_SAMPLES, seed=2)


# These take longest; test_flow.py and test_diffusion.py also test that they learn moons.
LONG = ("flow", "diffusion")
CASES = [pytest.param(n, marks=[pytest.mark.long] * (n in LONG)) for n in two_moons.NAMES]


@pytest.fixture(scope="module", params=CASES)
def fitted(request) -> SimpleNamespace:
    """A prior, its parameters, its log-densities of held-out latents and its samples."""
    name = request.param
    if name == "ex_post_mixture":
        pytest.importorskip("sklearn", reason="expectation maximisation is scikit-learn's")
    prior, params = two_moons.fit(name, TRAIN, NUM_STEPS[name], seed=0)
    return SimpleNamespace(
        prior=prior,
        params=params,
        log_probs=two_moons.log_prob(prior, params, HELD_OUT, jax.random.key(1)),
        samples=two_moons.draw(prior, params, NUM_SAMPLES, jax.random.key(2)),
    )


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


@functools.cache
def grid() -> tuple[np.ndarray, float]:
    """Returns points that cover every density in these tests, and the area of each.

    They are half a standard deviation of the noise apart: sums over them are as good as integrals.
    """
    step = 0.5 * two_moons.NOISE * two_moons.SCALE
    low, high = TRAIN.min(axis=0), TRAIN.max(axis=0)
    margin = 0.5 * (high - low)
    axes = [np.arange(*ends) for ends in zip(low - margin, high + margin, step, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points.astype(np.float32), step.prod()


# The reference


def test_every_learned_prior_is_fitted():
    assert {*two_moons.NAMES} == {*priors.names()} - {"standard_normal"}


def test_density_of_the_moons_is_that_of_their_samples():
    points, area = grid()
    log_probs = two_moons.moons_log_prob(points)
    probabilities = np.exp(log_probs) * area
    np.testing.assert_allclose(probabilities.sum(), 1.0, atol=1e-4)
    mean, error = mean_and_error(TRUE_LOG_PROBS)
    assert abs(mean - (probabilities * log_probs).sum()) < 4 * error  # minus the entropy
    residuals = HELD_OUT - probabilities @ points
    assert np.all(np.abs(residuals.mean(axis=0)) < 4 * HELD_OUT.std(axis=0) / NUM_LATENTS**0.5)


def test_gaussian_has_the_moments_of_the_latents():
    mean = GAUSSIAN.log_prob(TRAIN).mean()
    # The mean has a closed form, because the moments are those of the same latents.
    log_det = np.linalg.slogdet(np.cov(TRAIN.T)).logabsdet
    expected = -math.log(2 * math.pi) - 0.5 * log_det - (1.0 - 1.0 / NUM_LATENTS)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    samples_mean, error = mean_and_error(GAUSSIAN.log_prob(GAUSSIAN_SAMPLES))
    assert abs(samples_mean - mean) < 4 * error


# The priors


def test_density_of_held_out_latents_is_near_the_best_and_not_above(fitted):
    # The spread of the latents cancels, as both densities are of the same ones. The mean difference
    # is minus a divergence, so that only chance can lift it above 0. Without the Jacobian of the
    # standardisation it would be 0.27 nats higher.
    above_truth, error = mean_and_error(fitted.log_probs - TRUE_LOG_PROBS)
    assert above_truth < 4 * error
    gained, error = mean_and_error(fitted.log_probs - GAUSSIAN.log_prob(HELD_OUT))
    possible = (TRUE_LOG_PROBS - GAUSSIAN.log_prob(HELD_OUT)).mean()
    assert gained - 4 * error > 0.5 * possible


def test_samples_are_hard_to_tell_from_held_out_latents(fitted):
    # The squared MMD with the median bandwidth is too blunt here: for 500 samples of the Gaussian,
    # it is only twice that of samples of the moons. The nearest-neighbour accuracy of two sets of
    # 1000 has a standard deviation below 0.02 around 0.5; the Gaussian's is 0.17 above 0.5.
    def advantage(samples):
        sets = samples / two_moons.SCALE, HELD_OUT[:NUM_SAMPLES] / two_moons.SCALE
        return nearest_neighbour_accuracy(*sets) - 0.5

    assert fitted.samples.shape == (NUM_SAMPLES, 2)
    assert advantage(fitted.samples) < 0.5 * advantage(GAUSSIAN_SAMPLES)


def test_few_samples_are_where_there_are_no_latents(fitted):
    threshold = np.quantile(TRUE_LOG_PROBS, 0.01)

    def share(samples):
        return (two_moons.moons_log_prob(samples) < threshold).mean()

    assert share(fitted.samples) < share(GAUSSIAN_SAMPLES) / 3


def test_density_of_an_exact_prior_integrates_to_one(fitted):
    if not fitted.prior.is_exact:
        pytest.skip("a bound on a density does not integrate to one")
    points, area = grid()
    log_probs = two_moons.log_prob(fitted.prior, fitted.params, points, jax.random.key(3))
    np.testing.assert_allclose(np.exp(log_probs).sum() * area, 1.0, atol=0.02)


def test_loss_is_minus_the_density(fitted):
    def loss(params, key):
        return fitted.prior.apply({"params": params}, HELD_OUT, key, method="loss")

    losses, log_probs = np.float64(jax.jit(loss)(fitted.params, jax.random.key(4)))
    np.testing.assert_allclose(losses, -log_probs, rtol=1e-5, atol=1e-5)
    difference, error = mean_and_error(log_probs - fitted.log_probs)
    assert abs(difference) < 4 * error + 1e-5


# The picture


def test_picture_has_a_panel_for_every_density(tmp_path, monkeypatch):
    panels = {}
    save = two_moons.save_panels
    monkeypatch.setattr(two_moons, "NAMES", ["vamp"])
    monkeypatch.setattr(two_moons, "NUM_STEPS", {"vamp": 0})
    monkeypatch.setattr(
        two_moons,
        "save_panels",
        lambda path, content: (panels.update(content), save(path, content)),
    )
    path = tmp_path / "new" / "moons.png"
    two_moons.write_picture(path)
    assert [title.partition(":")[0] for title in panels] == ["data, exact", "one Gaussian", "vamp"]
    assert all(samples.shape == (two_moons.NUM_SHOWN, 2) for samples in panels.values())
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert all(np.ptp(part) > 0 for part in np.array_split(pixels, 4, axis=1)[:3])
