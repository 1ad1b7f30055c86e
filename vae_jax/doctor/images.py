"""Findings about the images: range, constant images, duplicates, differences between splits."""

import hashlib
from collections.abc import Sequence

import numpy as np

from vae_jax.data import Split
from vae_jax.doctor.examination import MIN_NUM_IMAGES
from vae_jax.doctor.findings import Finding
from vae_jax.runtime.memory import COMPARED, num_in_memory

NUM_SAMPLED = 2000  # images of each split that are examined for range and shift; fewer large ones
BLOCK_SIZE = 2000  # images read at a time; fewer large ones
MIN_RANGE = 128  # of 256 levels
CONSTANT_WARNING, CONSTANT_SEVERE = 1e-3, 1e-2
DUPLICATE_WARNING, DUPLICATE_SEVERE = 1e-3, 1e-2
SHIFT_LEVELS, SHIFT_ERRORS = 8.0, 6.0


def diagnose_images(splits: Sequence[Split]) -> list[Finding]:
    """Returns findings about splits of one dataset, the training split first. Reads every image."""
    digests, num_constant = {}, {}
    for split in splits:
        digests[split.name], num_constant[split.name] = _read(split)
    findings = [*map(_narrow_range, splits)]
    findings += [_constant(split, num_constant[split.name]) for split in splits]
    train, *others = splits
    for split in others:
        findings.append(_duplicates(train.name, digests[train.name], split, digests[split.name]))
        findings.append(_shift(train, split))
    return [finding for finding in findings if finding is not None]


def _read(split: Split) -> tuple[list[bytes], int]:
    """Returns (digests of the images with more than one colour, number of the other images)."""
    digests, num_constant = [], 0
    size = num_in_memory(split.image_shape, BLOCK_SIZE, COMPARED)
    for start in range(0, len(split), size):
        block = split.take(np.arange(start, min(start + size, len(split))))
        flat = block.reshape(len(block), -1)
        constant = (block == block[:, :1, :1]).reshape(len(block), -1).all(axis=1)
        num_constant += int(constant.sum())
        digests += [
            hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in flat[~constant]
        ]
    return digests, num_constant


def _sample(split: Split) -> np.ndarray:
    """Returns the images that are examined for range and shift, uint8 [N, H, W, C]."""
    return split.shuffled(num_in_memory(split.image_shape, NUM_SAMPLED, COMPARED))


def _narrow_range(split: Split) -> Finding | None:
    if len(split) < MIN_NUM_IMAGES:
        return None
    images = _sample(split)
    low, high = np.quantile(images, [0.001, 0.999])
    if high - low >= MIN_RANGE:
        return None
    is_sparse = np.ptp(images) >= MIN_RANGE
    return Finding(
        name="data_out_of_range",
        severity="warning" if is_sparse else "severe",
        evidence=f"Nearly all pixels of {split.name} are between {low:.0f} and {high:.0f}.",
        threshold=f"99.8% of the pixels of natural images span at least {MIN_RANGE} of 256 levels; "
        "severe if all pixels together span less",
        meaning="The images were scaled or shifted, so the model learns a range other than [0, 1] "
        "and its likelihood assumes the wrong noise level.",
        remedy="write the arrays again as uint8 on the full scale of 0 to 255",
    )


def _constant(split: Split, num_constant: int) -> Finding | None:
    if split.image_shape[:2] == (1, 1):
        return None  # one pixel has one colour
    share = num_constant / len(split)
    if share < CONSTANT_WARNING:
        return None
    return Finding(
        name="constant_images",
        severity="severe" if share >= CONSTANT_SEVERE else "warning",
        evidence=f"{num_constant:,} of {len(split):,} images of {split.name} ({share:.1%}) have "
        "a single colour.",
        threshold=f"{CONSTANT_WARNING:.1%}, severe from {CONSTANT_SEVERE:.0%}",
        meaning="Empty images drive the variance of a density to its floor, and the model learns "
        "to sample them.",
        remedy="remove them from the arrays from which the split is taken",
    )


def _duplicates(
    train_name: str, train_digests: list[bytes], split: Split, digests: list[bytes]
) -> Finding | None:
    known = set(train_digests)
    num_shared = sum(digest in known for digest in digests)
    share = num_shared / len(split)
    if share < DUPLICATE_WARNING:
        return None
    return Finding(
        name="duplicated_images",
        severity="severe" if share >= DUPLICATE_SEVERE else "warning",
        evidence=f"{num_shared:,} of {len(split):,} images of {split.name} ({share:.1%}) are also "
        f"in {train_name}, pixel by pixel.",
        threshold=f"{DUPLICATE_WARNING:.1%}, severe from {DUPLICATE_SEVERE:.0%}; the share in "
        f"Fashion-MNIST itself is below {DUPLICATE_WARNING:.1%}",
        meaning="The model has seen these images in training, so their ELBO is not that of new "
        "images.",
        remedy=f"keep only one copy of each in the arrays from which {split.name} is taken "
        "(validation is part of train_images.npy unless it has its own file)",
    )


def _shift(train: Split, split: Split) -> Finding | None:
    """Reports a difference between the mean pixel levels of two splits."""
    if len(train) < MIN_NUM_IMAGES:
        return None  # too few to know how much images differ
    levels = [_sample(s).mean(axis=(1, 2, 3), dtype=np.float64) for s in (train, split)]
    difference = levels[1].mean() - levels[0].mean()
    # The spread is that of the training images, because a small split estimates it poorly.
    error = levels[0].std() * np.sqrt(sum(1 / len(level) for level in levels))
    if abs(difference) < max(SHIFT_LEVELS, SHIFT_ERRORS * error):
        return None
    return Finding(
        name="shifted_pixels",
        severity="severe",
        evidence=f"The mean level is {levels[0].mean():.1f} in {train.name} and "
        f"{levels[1].mean():.1f} in {split.name}, {difference:+.1f} ± {error:.1f} of 256 levels.",
        threshold=f"{SHIFT_LEVELS:g} levels and {SHIFT_ERRORS:g} standard errors",
        meaning="The splits were preprocessed differently, and metrics on them measure that "
        "difference.",
        remedy="prepare all splits with the same code",
    )
