"""Tests of vae_jax/doctor/images.py."""

import math

import numpy as np
import pytest

from vae_jax.data import Split
from vae_jax.doctor import images as doctor_images
from vae_jax.doctor.findings import Finding
from vae_jax.doctor.images import (
    CONSTANT_SEVERE,
    CONSTANT_WARNING,
    DUPLICATE_SEVERE,
    DUPLICATE_WARNING,
    MIN_RANGE,
    SHIFT_ERRORS,
    SHIFT_LEVELS,
    diagnose_images,
)

NUM_IMAGES = 2000  # divisible by 1000 and by 100


def make_split(name: str, images: np.ndarray) -> Split:
    return Split(name, np.asarray(images, np.uint8), None, np.arange(len(images)))


def random_images(num_images: int, seed: int, num_channels: int = 1) -> np.ndarray:
    shape = (num_images, 4, 4, num_channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def make_splits(num_images: int = NUM_IMAGES, num_channels: int = 1) -> tuple[Split, Split]:
    return tuple(
        make_split(name, random_images(num_images, seed, num_channels))
        for seed, name in enumerate(("train", "validation"))
    )


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize("num_channels", [1, 3])
def test_clean_images_give_nothing(num_channels):
    assert diagnose_images(make_splits(200, num_channels)) == []


def test_single_images_can_be_examined():
    assert diagnose_images(make_splits(1)) == []


@pytest.mark.parametrize("num_images", [1, 9])
def test_few_images_say_nothing_about_range_and_shift(num_images):
    train = make_split("train", random_images(num_images, 0) // 8)
    validation = make_split("validation", random_images(num_images, 1) // 8 + 200)
    assert diagnose_images([train, validation]) == []


def test_an_image_of_one_pixel_is_neither_constant_nor_a_duplicate():
    images = np.arange(256).reshape(-1, 1, 1, 1)
    assert diagnose_images([make_split(name, images) for name in ("train", "validation")]) == []


# Range


@pytest.mark.parametrize("low", [0, 100])
@pytest.mark.parametrize("spoilt", ["train", "validation"])
def test_narrow_range_is_found_below_its_threshold(low, spoilt):
    def with_span(span: int) -> list[Finding]:
        splits = []
        for split in make_splits(50):
            if split.name == spoilt:
                binary = np.where(split.images > 127, low + span, low)
                split = make_split(split.name, binary)
            splits.append(split)
        return [f for f in diagnose_images(splits) if f.name == "data_out_of_range"]

    assert with_span(MIN_RANGE) == []
    finding = only(with_span(MIN_RANGE - 1))
    assert finding.is_severe
    assert f"{spoilt} are between {low} and {low + MIN_RANGE - 1}." in finding.evidence


def test_few_outlying_pixels_do_not_hide_a_narrow_range():
    """The span covers 99.8% of the pixels."""

    def with_outliers(num: int) -> list[Finding]:
        pixels = np.arange(1000 * 16) % 101  # 0 to 100
        pixels[:num] = 255
        images = np.random.default_rng(0).permutation(pixels).reshape(1000, 4, 4, 1)
        return diagnose_images([make_split("train", images)])

    assert only(with_outliers(12)).name == "data_out_of_range"  # 0.075% of 16,000
    assert with_outliers(24) == []  # 0.15%


# Constant images


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(
    ("num", "severity"),
    [
        (round(CONSTANT_WARNING * NUM_IMAGES) - 1, None),
        (round(CONSTANT_WARNING * NUM_IMAGES), "warning"),
        (round(CONSTANT_SEVERE * NUM_IMAGES) - 1, "warning"),
        (round(CONSTANT_SEVERE * NUM_IMAGES), "severe"),
    ],
)
def test_constant_images_are_counted(num, severity, num_channels):
    train, validation = make_splits(NUM_IMAGES, num_channels)
    chosen = np.random.default_rng(2).permutation(NUM_IMAGES)[:num]
    # Each has another colour, so that none are duplicates.
    colours = np.random.default_rng(3).permutation(256)[:num].reshape(-1, 1, 1, 1)
    validation.images[chosen] = colours + 0 * validation.images[chosen]
    validation.images[chosen, ..., 0] = (255 - colours)[..., 0]  # one channel unlike the others
    findings = diagnose_images([train, validation])
    if severity is None:
        assert findings == []
        return
    finding = only(findings)
    assert (finding.name, finding.severity) == ("constant_images", severity)
    assert finding.evidence.startswith(f"{num} of 2,000 images of validation")


def test_image_with_one_other_pixel_or_channel_is_not_constant():
    images = random_images(20, 0, num_channels=3)
    images[:5] = 7
    images[:5, 3, 3, 2] = 8
    images[5:10] = 7
    images[5:10, :, :2, 1] = 9
    assert diagnose_images([make_split("train", images)]) == []


# Duplicates


@pytest.mark.parametrize(
    ("num", "severity"),
    [
        (round(DUPLICATE_WARNING * NUM_IMAGES) - 1, None),
        (round(DUPLICATE_WARNING * NUM_IMAGES), "warning"),
        (round(DUPLICATE_SEVERE * NUM_IMAGES) - 1, "warning"),
        (round(DUPLICATE_SEVERE * NUM_IMAGES), "severe"),
    ],
)
def test_images_of_the_training_split_are_counted(num, severity):
    train, validation = make_splits()
    rng = np.random.default_rng(2)
    rows, sources = rng.permutation(NUM_IMAGES)[:num], rng.permutation(NUM_IMAGES)[:num]
    validation.images[rows] = train.images[sources]
    findings = diagnose_images([train, validation])
    if severity is None:
        assert findings == []
        return
    finding = only(findings)
    assert (finding.name, finding.severity) == ("duplicated_images", severity)
    assert finding.evidence.startswith(f"{num} of 2,000 images of validation")


def test_duplicates_within_a_split_or_of_two_held_out_splits_are_no_finding():
    train, validation = make_splits(50)
    test = make_split("test", validation.images)
    train.images[:10] = train.images[10:20]
    assert diagnose_images([train, validation, test]) == []


def test_constant_images_are_not_reported_as_duplicates():
    train, validation = make_splits(50)
    train.images[:4] = validation.images[:4] = 0
    train.images[4] = validation.images[4] = validation.images[0] + np.uint8([[[9]]] * 4)
    findings = diagnose_images([train, validation])
    assert [f.name for f in findings] == ["constant_images"] * 2
    assert [f.evidence.split(" ")[0] for f in findings] == ["5", "5"]


def test_images_that_differ_by_one_level_are_no_duplicates():
    train, validation = make_splits(50)
    validation.images[:] = train.images
    validation.images[:, 0, 0] ^= 1
    assert diagnose_images([train, validation]) == []


def test_only_the_rows_of_a_split_count():
    """Two splits may share a file, of which each takes a part."""
    images = random_images(60, 0)
    images[40:] = images[:20]
    rows = np.random.default_rng(0).permutation(60)
    kept = np.sort(rows[rows >= 20])
    train, other = (Split(n, images, None, kept[i::2]) for i, n in enumerate(("train", "test")))
    assert diagnose_images([train, other]) == []
    everything = Split("train", images, None, np.arange(40))
    held_out = Split("test", images, None, np.arange(40, 60))
    evidence = only(diagnose_images([everything, held_out])).evidence
    assert evidence.startswith("20 of 20 images of test (100.0%) are also in train")


@pytest.mark.parametrize("block_size", [1, 7, 19, 20, 64])
def test_blocks_change_nothing(monkeypatch, block_size):
    train, validation = make_splits(20)
    validation.images[[0, 6, 7, 13, 19]] = train.images[[19, 14, 7, 6, 0]]
    validation.images[[5, 18]] = np.array([3, 200]).reshape(2, 1, 1, 1)
    monkeypatch.setattr(doctor_images, "BLOCK_SIZE", block_size)
    evidence = {f.name: f.evidence for f in diagnose_images([train, validation])}
    assert evidence.keys() == {"duplicated_images", "constant_images"}
    assert evidence["duplicated_images"].startswith("5 of 20 ")
    assert evidence["constant_images"].startswith("2 of 20 ")


# Shift


def images_of_means(means: np.ndarray, seed: int) -> np.ndarray:
    """Puts pixels 60 below and above each mean, in random order: no two images are equal."""
    rng = np.random.default_rng(seed)
    signs = np.tile(np.repeat([-60, 60], 8), (len(means), 1))
    signs = rng.permuted(signs, axis=1).reshape(-1, 4, 4, 1)
    return (np.reshape(means, (-1, 1, 1, 1)) + signs).astype(np.uint8)


def shift_findings(train_means, other_means) -> list[Finding]:
    splits = [
        make_split("train", images_of_means(np.asarray(train_means), 0)),
        make_split("test", images_of_means(np.asarray(other_means), 1)),
    ]
    return [f for f in diagnose_images(splits) if f.name == "shifted_pixels"]


@pytest.mark.parametrize("sign", [-1, 1])
def test_shift_is_found_from_its_threshold_in_levels(sign):
    """All images of a split have one mean level, so that its standard error is 0."""
    threshold = math.ceil(SHIFT_LEVELS)
    assert shift_findings([120] * 40, [120 + sign * (threshold - 1)] * 40) == []
    finding = only(shift_findings([120] * 40, [120 + sign * threshold] * 40))
    assert finding.is_severe
    assert f"120.0 in train and {120 + sign * threshold:.1f} in test" in finding.evidence


def test_shift_within_the_errors_of_the_means_is_no_finding():
    means, n = np.array([100, 131] * 25), 50
    error = math.sqrt(2 * means.var() / n)
    threshold = SHIFT_ERRORS * error
    assert threshold > SHIFT_LEVELS
    assert shift_findings(means, means + math.floor(threshold)) == []
    assert only(shift_findings(means, means + math.ceil(threshold))).is_severe
