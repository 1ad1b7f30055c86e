"""Tests of vae_jax/metrics/reference.py."""

import gc
import logging
import pathlib

import jax
import numpy as np
import pytest

from vae_jax.metrics import reference
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.inception import LOGITS
from vae_jax.metrics.inception_layers import LAYER_SHAPES
from vae_jax.metrics.inception_weights import InceptionWeights
from vae_jax.metrics.reference import reference_features
from vae_jax.runtime import sharding

NUM_IMAGES = 9
TAPS = (64, 192)


def make_weights(bias: float = 0.0) -> InceptionWeights:
    """Returns weights up to tap 192, all zero except one bias."""
    layers = {}
    for name in list(LAYER_SHAPES)[:5]:
        shape = LAYER_SHAPES[name]
        layers[name] = (np.zeros(shape, np.float32), np.zeros(shape[-1], np.float32))
    layers["conv"][1][0] = bias
    return InceptionWeights(layers)


def random_images(seed: int = 0, shape: tuple[int, ...] = (4, 6, 1)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (NUM_IMAGES, *shape), dtype=np.uint8)


def stand_in(images: np.ndarray, tap: int) -> np.ndarray:
    """Features that need no network: float32 [N, tap]."""
    first_pixels = images.reshape(len(images), -1)[:, :1].astype(np.float32)
    return np.sin(first_pixels * np.arange(tap)).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(make_weights(), TAPS)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The sizes of the blocks that went through `stand_in` in place of the network."""
    sizes = []

    def features(self, images):
        sizes.append(len(images))
        return {tap: stand_in(images, tap) for tap in (*self.taps, LOGITS)}

    monkeypatch.setattr(FeatureExtractor, "features", features)
    return sizes


def assert_features_of(found: FeatureSet, images: np.ndarray):
    assert found.logits is None
    assert len(found) == len(images)
    assert found.statistics.keys() == found.features.keys() == set(TAPS)
    for tap in TAPS:
        expected = stand_in(images, tap)
        np.testing.assert_array_equal(found.features[tap], expected)
        assert found.features[tap].dtype == np.float32
        statistics, exact = found.statistics[tap], expected.astype(np.float64)
        assert statistics.count == len(images)
        assert statistics.mean.dtype == statistics.scatter.dtype == np.float64
        np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=0, atol=1e-12)
        covariance = np.cov(exact, rowvar=False)
        np.testing.assert_allclose(statistics.covariance, covariance, rtol=0, atol=1e-12)


def files_in(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_features_are_computed_once(extractor, computed, tmp_path):
    images, directory = random_images(), tmp_path / "cache" / "features"
    first = reference_features(extractor, images, "tiny-test", directory)
    assert computed == [NUM_IMAGES]
    second = reference_features(extractor, images, "tiny-test", directory)
    assert computed == [NUM_IMAGES]
    for found in (first, second):
        assert_features_of(found, images)
    for tap in TAPS:
        a, b = first.statistics[tap], second.statistics[tap]
        assert np.array_equal(a.mean, b.mean)
        assert np.array_equal(a.scatter, b.scatter)
    (name,) = files_in(directory)
    assert name.startswith(f"tiny-test-{NUM_IMAGES}-")
    assert name.endswith(".npz")


def test_features_through_the_network(tmp_path):
    # With kernels of zero, the features are the biases after the last ReLU.
    weights = make_weights()
    weights.layers["conv_4"][1][:] = np.arange(192) - 90
    extractor = FeatureExtractor(weights, (192,), batch_size=2)
    found = [
        reference_features(extractor, random_images()[:3], "tiny-test", tmp_path) for _ in range(2)
    ]
    for features in found:
        expected = np.maximum(np.arange(192) - 90, 0)
        np.testing.assert_array_equal(features.features[192], np.tile(expected, (3, 1)))
        np.testing.assert_array_equal(features.statistics[192].mean, expected)


def test_blocks_are_joined(extractor, computed, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BLOCK_SIZE", 4)
    images = random_images()
    found = reference_features(extractor, images, "tiny-test", tmp_path)
    assert sum(computed) == NUM_IMAGES
    assert_features_of(found, images)


@pytest.mark.parametrize("change", ["pixel", "order", "number", "size", "channels", "name"])
def test_other_images_have_another_file(extractor, computed, tmp_path, change):
    images, name = random_images(), "tiny-test"
    reference_features(extractor, images, name, tmp_path)
    if change == "pixel":
        images[-1, -1, -1, -1] ^= 1
    elif change == "order":
        images[[0, 1]] = images[[1, 0]]
    elif change == "number":
        images = images[:-1]
    elif change == "size":
        images = images.reshape(NUM_IMAGES, 6, 4, 1)
    elif change == "channels":
        images = images.reshape(NUM_IMAGES, 4, 2, 3)
    else:
        name = "tiny-train"
    found = reference_features(extractor, images, name, tmp_path)
    assert computed == [NUM_IMAGES, len(images)]
    assert_features_of(found, images)
    assert len(files_in(tmp_path)) == 2


def test_another_extractor_has_another_file(extractor, computed, tmp_path):
    images = random_images()
    extractors = [
        extractor,
        FeatureExtractor(extractor.weights, TAPS, "clean"),
        FeatureExtractor(extractor.weights, (64,)),
        FeatureExtractor(extractor.weights, (192,)),
        FeatureExtractor(make_weights(bias=1.0), TAPS),
    ]
    for _ in range(2):
        for other in extractors:
            found = reference_features(other, images, "tiny-test", tmp_path)
            assert tuple(found.statistics) == other.taps
    assert computed == [NUM_IMAGES] * len(extractors)
    assert len(files_in(tmp_path)) == len(extractors)


def test_the_file_does_not_depend_on_what_changes_no_number(extractor, computed, tmp_path):
    images = random_images()
    reference_features(extractor, images, "tiny-test", tmp_path)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    strided = np.repeat(images, 2, axis=0)[::2]
    assert not strided.flags.c_contiguous
    mesh = sharding.create_mesh(jax.local_devices()[:1])
    other = FeatureExtractor(make_weights(), TAPS, mesh=mesh, batch_size=3)
    for extractor_, images_ in [(extractor, mapped), (extractor, strided), (other, images)]:
        assert_features_of(reference_features(extractor_, images_, "tiny-test", tmp_path), images)
    assert computed == [NUM_IMAGES]


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped bit", "missing array"])
def test_a_damaged_file_is_replaced(extractor, computed, tmp_path, caplog, damage):
    images = random_images()
    reference_features(extractor, images, "tiny-test", tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "text":
        path.write_bytes(b"<html>Quota exceeded</html>")
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        with np.load(path) as arrays:
            kept = {key: arrays[key] for key in arrays if key != "192/scatter"}
        np.savez(path, **kept)
    with caplog.at_level(logging.WARNING):
        found = reference_features(extractor, images, "tiny-test", tmp_path)
    gc.collect()  # a file left open would cause a warning now, not in another test
    assert computed == [NUM_IMAGES] * 2
    assert_features_of(found, images)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{path} is damaged (" in record.getMessage()
    assert files_in(tmp_path) == [path.name]
    caplog.clear()
    assert_features_of(reference_features(extractor, images, "tiny-test", tmp_path), images)
    assert computed == [NUM_IMAGES] * 2
    assert not caplog.records


def test_a_file_appears_only_when_it_is_whole(extractor, computed, tmp_path, monkeypatch, caplog):
    """If the file does not fit on the disk, the features are still returned."""
    images = random_images()
    savez = np.savez

    def fail(file, **arrays):
        savez(file, **dict(list(arrays.items())[:3]))
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    assert_features_of(reference_features(extractor, images, "tiny-test", tmp_path), images)
    assert "cannot be written (No space left on device)" in caplog.text
    assert files_in(tmp_path) == []
    monkeypatch.setattr(np, "savez", savez)
    assert_features_of(reference_features(extractor, images, "tiny-test", tmp_path), images)
    assert len(files_in(tmp_path)) == 1
