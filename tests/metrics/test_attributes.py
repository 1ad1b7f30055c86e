"""Tests of vae_jax/metrics/attributes.py."""

import numpy as np
import pytest
from scipy.stats import bernoulli

from vae_jax.metrics import attributes

SIZE = 16


def black(n: int = 1, num_channels: int = 1) -> np.ndarray:
    return np.zeros((n, SIZE, SIZE, num_channels))


def square(size: int, num_channels: int = 1) -> np.ndarray:
    """A white square in the middle of black."""
    x = black(num_channels=num_channels)
    start = (SIZE - size) // 2
    x[:, start : start + size, start : start + size] = 1.0
    return x


def random_images(n: int = 3, num_channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((n, SIZE, SIZE, num_channels))


# Contrast and spectrum


def test_contrast_by_hand():
    x = black(2)
    x[0, :, ::2] = 1.0  # half of the pixels: standard deviation 1/2
    x[1] = 0.8
    np.testing.assert_allclose(attributes.contrast(x), [0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(attributes.contrast(0.3 * x + 0.2)[0], 0.15, rtol=1e-12)


def test_contrast_is_of_pixels_and_not_between_channels():
    x = black(num_channels=3)
    x[..., 0] = 1.0  # a red image without any edge
    assert attributes.contrast(x)[0] == 0.0
    x = np.concatenate([random_images(1), black(num_channels=2)], axis=-1)
    expected = attributes.contrast(x[..., :1]) / np.sqrt(3)
    np.testing.assert_allclose(attributes.contrast(x), expected, rtol=1e-12)


def test_colour_by_hand():
    x = black(3, num_channels=3)
    x[0, ..., 0] = 1.0  # of 1, 0, 0 the variance is 2/9
    x[1, :, ::2, 0] = 1.0  # in half of the pixels
    x[2] = random_images(1)  # grey
    np.testing.assert_allclose(attributes.colour(x), np.sqrt([2 / 9, 1 / 9, 0.0]), atol=1e-12)
    assert not attributes.colour(random_images()).any()


def test_fine_power_is_the_power_above_eight_cycles():
    size = 32
    column = np.arange(size) / size
    waves = [np.broadcast_to(np.cos(2 * np.pi * c * column), (size, size)) for c in (3, 8, 9, 15)]
    x = np.stack(waves)[..., None]
    np.testing.assert_allclose(attributes.fine_power(x), [0, 0, 0.5, 0.5], atol=1e-12)


def test_fine_power_is_a_part_of_the_contrast():
    x = random_images(5, 3)
    fine, all_of_it = attributes.fine_power(x), attributes.contrast(x) ** 2
    assert np.all((fine > 0) & (fine < all_of_it))


# Structures and levels


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("negative", [False, True], ids=["bright", "dark"])
@pytest.mark.parametrize("turn", [False, True], ids=["rows", "columns"])
def test_lines_of_one_or_two_pixels_are_thin(width, negative, turn):
    x = black()
    x[:, 5 : 5 + width, 3:13] = 1.0
    x = np.swapaxes(x, 1, 2) if turn else x
    x = 1.0 - x if negative else x
    np.testing.assert_allclose(attributes.thin_structures(x), 10 * width / SIZE**2, rtol=1e-12)


@pytest.mark.parametrize("size", [3, 4, 8])
@pytest.mark.parametrize("negative", [False, True], ids=["bright", "dark"])
def test_squares_of_three_pixels_and_more_are_not_thin(size, negative):
    x = 1.0 - square(size) if negative else square(size)
    assert attributes.thin_structures(x)[0] == 0.0


def test_thin_structures_count_by_their_contrast():
    x = black()
    x[:, 5, 3:13] = 1.0
    full = attributes.thin_structures(x)
    np.testing.assert_allclose(attributes.thin_structures(0.4 + 0.5 * x), 0.5 * full, rtol=1e-12)
    assert attributes.thin_structures(black())[0] == 0.0


def test_the_image_with_a_line_is_the_one_found():
    x = np.concatenate([square(size) for size in (3, 5, 8, 10, 12)])
    x[3, 1, :] = 1.0
    assert np.argmax(attributes.thin_structures(x)) == 3


@pytest.mark.parametrize("num_channels", [1, 3])
def test_channels_are_seen_as_grey(num_channels):
    x = random_images(2, num_channels)
    grey = x.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        attributes.thin_structures(x), attributes.thin_structures(grey), rtol=1e-12
    )


def test_saturated_are_the_values_that_are_stored_as_255():
    levels = np.arange(256).reshape(1, 16, 16, 1) / 255.0
    assert attributes.saturated(levels)[0] == 1 / 256
    assert attributes.saturated(levels.astype(np.float32))[0] == 1 / 256
    assert attributes.saturated(black())[0] == 0.0
    np.testing.assert_allclose(attributes.saturated(square(4)), 16 / SIZE**2)
    red = square(4, 3) * np.array([1.0, 0.5, 0.5])
    np.testing.assert_allclose(attributes.saturated(red), 16 / SIZE**2 / 3)


# Bernoulli


def test_entropy_is_that_of_scipy():
    x = random_images()
    expected = bernoulli(x).entropy().sum(axis=(1, 2, 3))
    np.testing.assert_allclose(attributes.grey_entropy(x), expected, rtol=1e-12)


def test_black_and_white_have_no_entropy_and_grey_has_the_most():
    assert attributes.grey_entropy(square(5))[0] == 0.0
    half = attributes.grey_entropy(np.full((1, SIZE, SIZE, 1), 0.5))
    np.testing.assert_allclose(half, SIZE**2 * np.log(2), rtol=1e-12)


def test_excess_is_the_cross_entropy_less_the_entropy():
    x, means = random_images(), 0.1 + 0.8 * random_images()[::-1]
    cross = -(x * np.log(means) + (1 - x) * np.log(1 - means)).sum(axis=(1, 2, 3))
    expected = cross - attributes.grey_entropy(x)
    np.testing.assert_allclose(attributes.excess_distortion(x, means), expected, rtol=1e-10)


def test_excess_of_the_image_itself_is_zero_and_otherwise_positive():
    x = random_images()
    np.testing.assert_allclose(attributes.excess_distortion(x, x), np.zeros(3), atol=1e-4)
    assert np.all(attributes.excess_distortion(x, np.clip(x + 0.1, 0, 1)) > 1)


def test_excess_stays_finite_where_float32_rounds_to_certainty():
    means = np.ones((1, SIZE, SIZE, 1), np.float32)
    found = attributes.excess_distortion(np.full((1, SIZE, SIZE, 1), 0.5), means)
    assert np.isfinite(found[0]) and found[0] > SIZE**2  # very wrong, but a number


# Classes


def test_class_share_by_hand():
    shares = attributes.class_share(np.array([7, 7, 7, 2, 7, 2, 9, 7], np.uint8))
    # 5, 2 and 1 of 8 images, where an even share of three classes is 8/3.
    expected = {7: 15 / 8, 2: 6 / 8, 9: 3 / 8}
    labels = [7, 7, 7, 2, 7, 2, 9, 7]
    np.testing.assert_allclose(shares, [expected[label] for label in labels], rtol=1e-12)


def test_classes_of_equal_size_have_share_1():
    np.testing.assert_allclose(attributes.class_share(np.tile(np.arange(10), 3)), np.ones(30))


def two_classes() -> tuple[np.ndarray, np.ndarray]:
    """Class 4 around (0, 0), class 9 around (10, 0): ten points each, in a square of side 2."""
    corner = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    corner[10:, 0] += 10.0
    return corner, np.repeat([4, 9], 10)


def test_points_between_two_classes_are_blends_and_points_within_one_are_not():
    references, labels = two_classes()
    within = references[[0, 12]] + 1e-3
    between = np.array([[5.0, 0.0], [5.5, 0.2], [4.4, -0.3]])
    ratio, classes = attributes.blend(np.concatenate([within, between]), references, labels)
    assert np.all(ratio[:2] > 5) and np.all(ratio[2:] < 0.3)
    np.testing.assert_array_equal(classes[[0, 1, 3, 4]], [[4, 9], [9, 4], [9, 4], [4, 9]])
    assert set(classes[2]) == {4, 9}


def blend_by_loops(point, references, labels):
    distances = np.linalg.norm(references - point, axis=1)
    nearest = {c: min(distances[labels == c]) for c in set(labels)}
    first, second = sorted(nearest, key=nearest.get)[:2]
    a, b = sorted(np.flatnonzero(labels == first), key=lambda i: distances[i])[:2]
    c = min(np.flatnonzero(labels == second), key=lambda i: distances[i])
    across = np.linalg.norm(point - (references[a] + references[c]) / 2)
    inside = np.linalg.norm(point - (references[a] + references[b]) / 2)
    return across / inside, (first, second)


def test_blend_by_loops():
    rng = np.random.default_rng(1)
    references, points = rng.normal(size=(40, 5)), rng.normal(size=(12, 5))
    labels = rng.integers(0, 4, 40).astype(np.uint8)
    ratio, classes = attributes.blend(points, references, labels)
    for i, point in enumerate(points):
        expected, pair = blend_by_loops(point, references, labels)
        assert ratio[i] == pytest.approx(expected, rel=1e-9)
        assert tuple(classes[i]) == pair


def test_a_blend_of_two_images_is_found_among_samples():
    references, labels = two_classes()
    samples = np.concatenate([references + 0.01, (references[:1] + references[10:11]) / 2])
    ratio, _ = attributes.blend(samples, references, labels)
    assert np.argmin(ratio) == 20 and ratio[20] < 0.1


@pytest.mark.parametrize(
    "labels", [[3] * 6, [3, 3, 3, 3, 3, 5]], ids=["one_class", "a_class_of_one_image"]
)
def test_there_are_no_blends_without_two_classes_of_two_images(labels):
    references = np.random.default_rng(0).normal(size=(6, 2))
    assert attributes.blend(references, references, np.array(labels)) is None


def test_a_point_in_the_very_middle_of_its_class_is_no_blend():
    references = np.array([[0.0], [2.0], [9.0], [11.0]])
    ratio, _ = attributes.blend(np.array([[1.0]]), references, np.array([0, 0, 1, 1]))
    assert ratio[0] == 1.0
