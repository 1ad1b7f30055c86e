"""Tests of vae_jax/metrics/inception_score.py."""

import itertools

import numpy as np
import pytest
import scipy.stats

from tests.metrics.torch_reference import import_torchvision
from vae_jax.metrics.inception_score import inception_score


def random_logits(num_images: int, num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (3.0 * rng.normal(size=(num_images, num_classes))).astype(np.float32)


@pytest.mark.parametrize("level", [0.0, 1000.0, -1000.0])
def test_uniform_predictions_score_1(level):
    score, standard_error = inception_score(np.full((40, 7), level, np.float32))
    np.testing.assert_allclose([score, standard_error], [1.0, 0.0], atol=1e-12)


def test_equal_predictions_score_1_however_certain():
    score, _ = inception_score(np.tile(np.float32([50.0, 0.0, -3.0]), (40, 1)))
    np.testing.assert_allclose(score, 1.0, rtol=1e-12)


@pytest.mark.parametrize("height", [100.0, 1e4])
def test_certain_and_balanced_predictions_score_the_number_of_classes(height):
    logits = np.tile(height * np.eye(8, dtype=np.float32), (10, 1))
    score, standard_error = inception_score(logits, num_splits=10)
    np.testing.assert_allclose([score, standard_error], [8.0, 0.0], atol=1e-9)


def test_certain_predictions_score_the_exponential_entropy_of_the_classes():
    classes = np.repeat([0, 1, 2], [5, 3, 2])
    score, _ = inception_score(1000.0 * np.eye(4)[classes], num_splits=1)
    expected = np.exp(scipy.stats.entropy([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(score, expected, rtol=1e-12)


@pytest.mark.parametrize("num_splits", [2, 3, 10, 23])
def test_score_and_error_by_split(num_splits):
    logits = random_logits(23, 5)
    probs = np.exp(logits.astype(np.float64))
    probs /= probs.sum(axis=1, keepdims=True)
    bounds = [23 * i // num_splits for i in range(num_splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(bounds):
        split = probs[start:stop]
        divergences = [scipy.stats.entropy(p, split.mean(axis=0)) for p in split]
        scores.append(np.exp(np.mean(divergences)))
    score, standard_error = inception_score(logits, num_splits)
    np.testing.assert_allclose(score, np.mean(scores), rtol=1e-12)
    np.testing.assert_allclose(standard_error, scipy.stats.sem(scores), rtol=1e-9, atol=1e-12)


def test_score_does_not_depend_on_a_constant_added_to_the_logits_of_an_image():
    logits = random_logits(50, 5).astype(np.float64)
    shifted = logits + np.linspace(-500, 500, 50)[:, None]
    np.testing.assert_allclose(inception_score(shifted), inception_score(logits), rtol=1e-9)


def test_one_split_has_no_standard_error():
    assert inception_score(random_logits(20, 3), num_splits=1)[1] is None


@pytest.mark.parametrize("num_splits", [0, 6])
def test_splits_need_an_image_each(num_splits):
    with pytest.raises(ValueError, match=f"num_splits={num_splits} of 5 images"):
        inception_score(random_logits(5, 3), num_splits)


@pytest.mark.parametrize("num_images, num_splits", [(500, 10), (503, 7), (100, 1)])
def test_score_is_that_of_torch_fidelity(num_images, num_splits):
    import_torchvision()
    metric_isc = pytest.importorskip("torch_fidelity.metric_isc")
    torch = pytest.importorskip("torch")
    logits = random_logits(num_images, 1008)
    expected = metric_isc.isc_features_to_metric(
        torch.tensor(logits), splits=num_splits, shuffle=False
    )
    score, standard_error = inception_score(logits, num_splits)
    np.testing.assert_allclose(score, expected[metric_isc.KEY_METRIC_ISC_MEAN], rtol=1e-10)
    if num_splits > 1:
        # The package returns the spread: sem = std(ddof=0) / sqrt(num_splits - 1).
        spread = expected[metric_isc.KEY_METRIC_ISC_STD]
        np.testing.assert_allclose(standard_error, spread / np.sqrt(num_splits - 1), rtol=1e-8)
