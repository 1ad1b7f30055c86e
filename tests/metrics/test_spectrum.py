"""Tests of vae_jax/metrics/spectrum.py."""

import numpy as np
import pytest

from vae_jax.metrics.spectrum import power_above, radial_power


def noise(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def wave(size: int, vertical: int, horizontal: int, amplitude: float = 1.0) -> np.ndarray:
    """Returns a sinusoid with so many cycles along each side, [1, size, size, 1]."""
    row, column = np.mgrid[:size, :size] / size
    phase = 2 * np.pi * (vertical * row + horizontal * column) + 0.3
    return amplitude * np.cos(phase)[None, ..., None]


@pytest.mark.parametrize(
    "shape", [(3, 16, 16, 1), (2, 28, 28, 1), (2, 32, 32, 3), (2, 15, 15, 1), (2, 12, 20, 3)]
)
def test_powers_sum_to_the_variance(shape):
    x = noise(shape) + 5.0
    radial = radial_power(x)
    variance = x.var(axis=(1, 2)).mean(axis=-1)  # over pixels, mean over channels
    np.testing.assert_allclose(radial.sum(axis=1), variance, rtol=1e-12)
    assert np.all(radial >= 0)
    assert len(radial) == shape[0]


@pytest.mark.parametrize(
    ("vertical", "horizontal", "cycles"),
    [(0, 1, 1), (3, 0, 3), (0, 7, 7), (3, 4, 5), (6, 8, 10), (1, 1, 1), (2, 2, 3), (5, -12, 13)],
)
def test_sinusoid_has_all_its_power_at_its_frequency(vertical, horizontal, cycles):
    """The power is a^2 / 2 at amplitude a; a diagonal frequency is sqrt(v^2 + h^2), rounded."""
    (radial,) = radial_power(wave(28, vertical, horizontal, amplitude=3.0))
    expected = np.zeros_like(radial)
    expected[cycles] = 4.5
    np.testing.assert_allclose(radial, expected, atol=1e-12)


def test_frequencies_of_one_ring_add_up():
    radial = radial_power(wave(16, 0, 5) + wave(16, 3, 4) + wave(16, 2, 0))[0]
    np.testing.assert_allclose(radial[[2, 5]], [0.5, 1.0], rtol=1e-12)
    np.testing.assert_allclose(radial.sum(), 1.5, rtol=1e-12)


@pytest.mark.parametrize("factor", [2.0, 0.1, -3.0])
def test_power_grows_with_the_square_and_not_with_the_mean(factor):
    x = noise((2, 16, 16, 1))
    expected = factor**2 * radial_power(x)
    np.testing.assert_allclose(radial_power(factor * x + 7.0), expected, atol=1e-12)


def test_constant_image_has_no_power():
    radial = radial_power(np.full((1, 16, 16, 3), 0.7))
    np.testing.assert_allclose(radial, np.zeros_like(radial), atol=1e-30)


def test_powers_are_averaged_over_channels_and_not_those_of_their_mean():
    opposed = np.concatenate([wave(16, 0, 3), -wave(16, 0, 3), np.zeros((1, 16, 16, 1))], axis=-1)
    np.testing.assert_allclose(radial_power(opposed)[0, 3], (0.5 + 0.5) / 3, rtol=1e-12)


def test_rows_are_those_of_single_images():
    x = noise((3, 16, 16, 1))
    one_by_one = np.concatenate([radial_power(x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(radial_power(x), one_by_one, rtol=1e-12)


@pytest.mark.parametrize("turn", [lambda x: x[:, ::-1], lambda x: np.swapaxes(x, 1, 2)])
def test_mirrored_and_turned_images_have_the_same_powers(turn):
    x = noise((2, 16, 16, 1))
    np.testing.assert_allclose(radial_power(turn(x)), radial_power(x), rtol=1e-10)


def test_uint8_is_not_wrapped():
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    np.testing.assert_array_equal(radial_power(x), radial_power(x.astype(np.float64)))


def test_power_above_leaves_out_the_frequency_itself():
    x = wave(28, 0, 8, amplitude=2.0) + wave(28, 0, 9)
    (above,) = power_above(radial_power(x), 8)
    np.testing.assert_allclose(above, 0.5, rtol=1e-12)
    np.testing.assert_allclose(power_above(radial_power(x), 7), [2.5], rtol=1e-12)


def test_power_above_everything_is_none_and_above_zero_is_all():
    radial = radial_power(noise((4, 16, 16, 1)))
    assert np.all(power_above(radial, radial.shape[1]) == 0)
    np.testing.assert_allclose(power_above(radial, 0), radial.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(power_above(radial[0], 3), radial[0, 4:].sum(), rtol=1e-12)
