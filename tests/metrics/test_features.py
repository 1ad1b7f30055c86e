"""Tests of vae_jax/metrics/features.py."""

import io
import sys

import jax
import numpy as np
import pytest

from vae_jax.metrics import features as features_module
from vae_jax.metrics.features import (
    FeatureExtractor,
    FeatureSet,
    preprocess_clean,
    preprocess_pytorch_fid,
)
from vae_jax.metrics.frechet import GaussianStatistics
from vae_jax.metrics.inception import LOGITS
from vae_jax.metrics.inception_layers import LAYER_SHAPES
from vae_jax.metrics.inception_weights import InceptionWeights
from vae_jax.runtime import sharding

NUM_IMAGES = 7  # not a multiple of any batch size here
SHAPES = [(28, 28, 1), (32, 32, 3), (64, 64, 3)]
LARGE = (400, 320, 3)  # is reduced
ATOL = 1e-6  # features are of order 1, and differently compiled programs round differently


def random_images(num_images: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Returns noise; half of it is black and white, so that a bicubic filter overshoots."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (num_images, *shape), dtype=np.uint8)
    noise[::2] = 255 * (noise[::2] > 127)
    return noise


def repeat_channel(images: np.ndarray) -> np.ndarray:
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


@pytest.fixture(scope="module")
def stem() -> InceptionWeights:
    """Random weights up to tap 64, scaled so that activations stay of order 1."""
    rng = np.random.default_rng(0)

    def layer(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        kernel = rng.normal(0.0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return kernel.astype(np.float32), rng.normal(0.0, 0.1, shape[-1]).astype(np.float32)

    return InceptionWeights({name: layer(LAYER_SHAPES[name]) for name in list(LAYER_SHAPES)[:3]})


@pytest.fixture(scope="module")
def extractor(stem) -> FeatureExtractor:
    """On both devices, two images on each per call."""
    return FeatureExtractor(stem, (64,), batch_size=4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return random_images(NUM_IMAGES, (28, 28, 1))


@pytest.fixture(scope="module")
def expected(extractor, images) -> np.ndarray:
    """Features of `images`, all of them different."""
    features = extractor.features(images)[64]
    assert features.dtype == np.float32
    assert features.shape == (NUM_IMAGES, 64)
    distances = np.abs(features[:, None] - features).max(axis=-1)
    assert (distances + np.eye(NUM_IMAGES) > 1e-3).all()
    return features


# Resizing


@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
def test_pytorch_fid_preprocessing_is_the_interpolation_of_torch(shape):
    torch = pytest.importorskip("torch")
    images = random_images(2, shape)
    scaled = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) / 255
    resized = torch.nn.functional.interpolate(
        scaled, size=(299, 299), mode="bilinear", align_corners=False
    )
    expected = (2 * resized - 1).numpy().transpose(0, 2, 3, 1)
    found = preprocess_pytorch_fid(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# clean-fid passes Pillow the mode of a float array, which Pillow 11.3 deprecated.
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        *((shape, 1e-5) for shape in SHAPES),
        # The positions between which the filter interpolates are rounded to float32, and noise
        # differs by 255 from one position to the next.
        (LARGE, 1e-4),
    ],
)
def test_clean_preprocessing_is_the_resizing_of_clean_fid(shape, tolerance):
    resize = pytest.importorskip("cleanfid.resize").make_resizer(
        "PIL", False, "bicubic", (299, 299)
    )
    images = random_images(2, shape)
    expected = np.stack([resize(image) for image in repeat_channel(images)])
    assert (expected.min(), expected.max()) == (0, 255)  # the overshoot has been cut off
    found = preprocess_clean(images)
    assert found.dtype == np.float32
    found = repeat_channel(128 + 128 * np.asarray(found))
    np.testing.assert_allclose(found, expected, rtol=0, atol=255 * tolerance)


def test_preprocessing_is_the_one_that_was_asked_for(stem, images):
    found = {
        name: FeatureExtractor(stem, (64,), name, batch_size=2).features(images[:2])[64]
        for name in ("pytorch_fid", "clean")
    }
    assert np.abs(found["clean"] - found["pytorch_fid"]).max() > 1e-2


# Extraction


def test_features_do_not_depend_on_the_batch_size(stem, images, expected):
    for batch_size in (2, 6, 8):
        found = FeatureExtractor(stem, (64,), batch_size=batch_size).features(images)
        np.testing.assert_allclose(found[64], expected, rtol=0, atol=ATOL)


def test_features_do_not_depend_on_the_number_of_devices(stem, images, expected):
    for devices in (jax.local_devices()[:1], jax.local_devices()[1:]):
        assert len(devices) == 1
        mesh = sharding.create_mesh(devices)
        found = FeatureExtractor(stem, (64,), mesh=mesh, batch_size=3).features(images)
        np.testing.assert_allclose(found[64], expected, rtol=0, atol=ATOL)


def test_features_do_not_depend_on_the_order_or_on_the_other_images(extractor, images, expected):
    order = np.random.default_rng(1).permutation(NUM_IMAGES)
    np.testing.assert_allclose(
        extractor.features(images[order])[64], expected[order], rtol=0, atol=ATOL
    )
    for i in (0, NUM_IMAGES - 1):
        alone = extractor.features(images[i : i + 1])[64]
        np.testing.assert_allclose(alone, expected[i : i + 1], rtol=0, atol=ATOL)


def test_a_grey_image_is_its_three_channels(extractor, images, expected):
    found = extractor.features(repeat_channel(images))[64]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_the_batch_size_is_per_device_if_none_is_given(stem):
    assert len(jax.local_devices()) == 2
    one = sharding.create_mesh(jax.local_devices()[:1])
    sizes = [FeatureExtractor(stem, (64,), mesh=mesh).batch_size for mesh in (one, None)]
    assert sizes[0] == features_module.CPU_BATCH_SIZE
    assert sizes[1] == 2 * sizes[0]


def test_compiler_options_that_xla_does_not_know_are_left_out(stem, images, expected, monkeypatch):
    monkeypatch.setattr(features_module, "CPU_COMPILER_OPTIONS", {"xla_no_such_option": ""})
    found = FeatureExtractor(stem, (64,), batch_size=4).features(images)[64]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


# Sets of features


def use_stand_in(monkeypatch, has_logits: bool = False):
    """Replaces the network: all features of an image are its first pixel."""

    def features(self, images):
        taps = (*self.taps, LOGITS) if has_logits else self.taps
        pixel = images[:, 0, 0, :1].astype(np.float32)
        return {tap: np.repeat(pixel, tap, axis=1) for tap in taps}

    monkeypatch.setattr(FeatureExtractor, "features", features)


def assert_same(a: FeatureSet, b: FeatureSet, rtol: float = 1e-9, atol: float = 0.0):
    assert len(a) == len(b)
    assert a.statistics.keys() == b.statistics.keys() == a.features.keys() == b.features.keys()
    for tap, statistics in a.statistics.items():
        other = b.statistics[tap]
        assert statistics.count == other.count
        np.testing.assert_allclose(statistics.mean, other.mean, rtol=rtol, atol=atol)
        np.testing.assert_allclose(statistics.scatter, other.scatter, rtol=rtol, atol=atol)
        np.testing.assert_allclose(a.features[tap], b.features[tap], rtol=rtol, atol=atol)
    assert (a.logits is None) == (b.logits is None)
    if a.logits is not None:
        np.testing.assert_allclose(a.logits, b.logits, rtol=rtol, atol=atol)


@pytest.mark.parametrize("ends", [[], [1], [4], [2, 3]])
def test_blocks_of_any_size_give_the_same(extractor, images, expected, ends):
    blocks = iter(np.split(images, ends))
    found = extractor.feature_set(blocks, NUM_IMAGES)
    assert len(found) == found.statistics[64].count == NUM_IMAGES
    assert found.logits is None
    np.testing.assert_allclose(found.features[64], expected, rtol=0, atol=ATOL)
    exact = expected.astype(np.float64)
    np.testing.assert_allclose(found.statistics[64].mean, exact.mean(axis=0), rtol=0, atol=ATOL)
    covariance = np.cov(exact, rowvar=False)
    assert np.abs(covariance).max() > 100 * ATOL
    np.testing.assert_allclose(found.statistics[64].covariance, covariance, rtol=0, atol=ATOL)


@pytest.mark.parametrize("n", [1, 3, NUM_IMAGES - 1])
def test_the_first_n_are_the_set_of_the_first_n_images(extractor, images, n):
    whole = extractor.feature_set([images], NUM_IMAGES)
    assert_same(whole.first(n), extractor.feature_set([images[:n]], n), rtol=0, atol=10 * ATOL)


def test_the_first_of_no_more_images_are_all(extractor, images):
    whole = extractor.feature_set([images], NUM_IMAGES)
    assert whole.first(NUM_IMAGES) is whole.first(NUM_IMAGES + 1) is whole


@pytest.mark.parametrize("ends", [[], [2, 5], [4]])
def test_features_of_only_the_first_images_are_kept(stem, images, monkeypatch, ends):
    use_stand_in(monkeypatch, has_logits=True)
    monkeypatch.setattr(features_module, "NUM_KEPT", 4)
    found = FeatureExtractor(stem, (64,)).feature_set(np.split(images, ends), NUM_IMAGES)
    pixels = images[:, 0, 0, 0].astype(np.float64)
    assert len(set(pixels)) > 4
    assert len(found) == NUM_IMAGES
    np.testing.assert_array_equal(found.features[64], np.repeat(pixels[:4, None], 64, axis=1))
    np.testing.assert_array_equal(found.logits, np.repeat(pixels[:, None], LOGITS, axis=1))
    np.testing.assert_allclose(found.statistics[64].mean, np.full(64, pixels.mean()))
    np.testing.assert_allclose(found.statistics[64].covariance, pixels.var(ddof=1))
    four = found.first(4)
    assert len(four) == len(four.logits) == len(four.features[64]) == 4
    np.testing.assert_allclose(four.statistics[64].mean, np.full(64, pixels[:4].mean()))
    with pytest.raises(ValueError, match="n = 5: only the features of the first 4 images are kept"):
        found.first(5)
    assert found.first(NUM_IMAGES) is found


def test_the_first_n_of_several_taps_and_logits():
    rng = np.random.default_rng(0)
    features = {tap: rng.normal(size=(9, tap)).astype(np.float32) for tap in (64, 192)}
    logits = rng.normal(size=(9, LOGITS)).astype(np.float32)

    def feature_set(n: int) -> FeatureSet:
        kept = {tap: f[:n] for tap, f in features.items()}
        statistics = {tap: GaussianStatistics.of(f) for tap, f in kept.items()}
        return FeatureSet(statistics, kept, logits[:n])

    assert_same(feature_set(9).first(5), feature_set(5))


@pytest.mark.parametrize(
    ("description", "is_terminal"),
    [("features of samples", True), ("features of samples", False), (None, True)],
)
def test_progress_is_shown_on_a_terminal_if_it_has_a_description(
    stem, images, description, is_terminal, monkeypatch
):
    use_stand_in(monkeypatch)
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    FeatureExtractor(stem, (64,)).feature_set(np.split(images, [3]), NUM_IMAGES, description)
    if description and is_terminal:
        assert description in stderr.getvalue()
        assert f"/{NUM_IMAGES}" in stderr.getvalue()
    else:
        assert stderr.getvalue() == ""


# What a user can get wrong


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28, 1), np.float32),
        np.zeros((2, 28, 28, 1), np.int64),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((28, 28, 1), np.uint8),
        np.zeros((2, 28, 28, 2), np.uint8),
        np.zeros((2, 28, 28, 4), np.uint8),
        np.zeros((2, 1, 28, 28), np.uint8),
        np.zeros((0, 28, 28, 1), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_other_images_are_refused(extractor, images):
    match = (
        rf"images are {images.dtype} .*uint8 \[N, H, W, C\], N at least 1, C of 1 or 3; .*to_uint8"
    )
    with pytest.raises(ValueError, match=match):
        extractor.features(images)


@pytest.mark.parametrize("taps", [(192,), (64, 2048), (100,), (LOGITS,), ()])
def test_taps_that_the_weights_do_not_have_are_refused(stem, taps):
    with pytest.raises(ValueError, match="are not available: these weights allow 64.$"):
        FeatureExtractor(stem, taps)


def test_unknown_preprocessing_is_refused(stem):
    match = "preprocessing = 'bicubic' is unknown: use one of pytorch_fid, clean"
    with pytest.raises(ValueError, match=match):
        FeatureExtractor(stem, (64,), "bicubic")


@pytest.mark.parametrize("batch_size", [3, 0, -2])
def test_batches_that_the_devices_cannot_share_are_refused(stem, batch_size):
    with pytest.raises(ValueError, match=f"batch_size = {batch_size} must be a positive multiple"):
        FeatureExtractor(stem, (64,), batch_size=batch_size)


@pytest.mark.parametrize("sizes", [(3, 5, 1, 7), (1,), (8, 8), (2, 2, 3), (9, 1), ()], ids=str)
def test_blocks_become_whole_batches_of_the_same_images(sizes):
    images = np.arange(sum(sizes))
    blocks = np.split(images, np.cumsum(sizes)[:-1]) if sizes else []
    batches = list(features_module._in_whole_batches(iter(blocks), 4))
    assert all(len(batch) % 4 == 0 for batch in batches[:-1])
    assert all(len(batch) for batch in batches)
    np.testing.assert_array_equal(np.concatenate([images[:0], *batches]), images)
