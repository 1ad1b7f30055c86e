"""Images that change between two starts of a run, which would continue with other batches."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.conftest import NUM_TRAIN, NUM_VALIDATION, SMALL_PRIOR, make_config, smooth_images
from tests.faults.conftest import assert_ended_as, assert_one_line
from vae_jax import config as configuration
from vae_jax import data, evaluation, training
from vae_jax.data import Split, hash_images, load_split
from vae_jax.errors import UserError

# A prior on a frozen VAE; data, model and likelihood are those of the VAE.
PRIOR = ("--config.prior.name=flow", "--config.prior.widths=(8,)", "--config.prior.num_couplings=1")


def flip_pixel(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images[-1, -1, -1, -1] ^= 1
    return images


CHANGES = {
    "one_bit": flip_pixel,
    "swapped_images": lambda images: images[[1, 0, *range(2, len(images))]],
    "one_image_more": lambda images: np.concatenate([images, images[:1]]),
    "other_images": lambda images: smooth_images(len(images), seed=9),
}


@pytest.fixture
def changed(data_dir, tmp_path):
    """Makes a copy of the dataset with other training images."""

    def make(change) -> pathlib.Path:
        directory = shutil.copytree(data_dir, tmp_path / "changed")
        path = directory / "tiny" / "train_images.npy"
        np.save(path, change(np.load(path)))
        return directory

    return make


@pytest.fixture
def halfway(undisturbed, tmp_path) -> pathlib.Path:
    """A copy of the complete run without its last checkpoint."""
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "24")
    return workdir


def hash_of(workdir: pathlib.Path) -> str:
    return json.loads((workdir / "config.json").read_text())[configuration.DATA_HASH]


def test_changed_images_are_refused_in_one_line(runs, halfway, changed):
    directory = changed(flip_pixel)
    splits = [load_split("tiny", s, str(directory), NUM_VALIDATION) for s in data.SPLITS[:2]]
    before = {p: p.stat().st_mtime_ns for p in halfway.rglob("*") if p.name != ".lock"}
    completed = runs.train(halfway, data_dir=directory)
    assert_one_line(
        completed,
        "train.py",
        "data.name = 'tiny'",
        str(directory),
        f"SHA-256 {hash_images(splits)[:12]} now, {hash_of(halfway)[:12]} in its config.json",
        "they must be the same. Put the old images back, or give another --workdir.",
    )
    assert {p: p.stat().st_mtime_ns for p in halfway.rglob("*") if p.name != ".lock"} == before


@pytest.mark.long
def test_same_images_elsewhere_are_accepted(runs, halfway, undisturbed, changed):
    completed = runs.train(halfway, data_dir=changed(np.copy))
    assert completed.returncode == 0, completed.stderr
    assert "cannot check that the run" not in completed.stderr
    assert_ended_as(halfway, undisturbed)


def test_prior_is_not_trained_on_other_images_than_its_vae(undisturbed, changed, tmp_path):
    workdir, keys = tmp_path / "prior", {**SMALL_PRIOR, "vae_workdir": str(undisturbed)}
    config = make_config(changed(flip_pixel), **keys, prior__name="flow")
    with pytest.raises(UserError, match=rf"that the run in {undisturbed} saw \(SHA-256"):
        training.train_and_evaluate(config, workdir, evaluation.validate)
    assert not (workdir / "config.json").exists()


@pytest.mark.long
def test_prior_is_trained_on_the_images_of_its_vae(runs, undisturbed, tmp_path):
    workdir, flags = tmp_path / "prior", [*PRIOR, f"--config.vae_workdir={undisturbed}"]
    completed = runs.train(workdir, *flags, "--config.train.num_steps=2")
    assert completed.returncode == 0, completed.stderr
    assert hash_of(workdir) == hash_of(undisturbed)


# The hash, in this process


def make_split(images: np.ndarray) -> Split:
    return Split("train", images, None, np.arange(len(images)))


def test_hash_is_of_shape_and_pixels(monkeypatch):
    images = smooth_images(7)
    expected = hashlib.sha256(b"uint8 (7, 16, 16, 1) " + images.tobytes()).hexdigest()
    for size in (1, 300, 2**30):  # one image at a time, one and a part of another, all
        monkeypatch.setattr("vae_jax.data.splits.HASH_CHUNK_BYTES", size)
        assert hash_images([make_split(images)]) == expected
    turned = images.reshape(7, 8, 32, 1)
    assert hash_images([make_split(turned)]) != expected


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_the_hash(change):
    images = smooth_images(7)
    assert hash_images([make_split(images)]) != hash_images([make_split(CHANGES[change](images))])


def test_splits_of_one_file_count_once_and_of_two_files_both(data_dir, tmp_path):
    def load(directory):
        names = ("train", "validation")
        return [load_split("tiny", name, str(directory), NUM_VALIDATION) for name in names]

    carved = load(data_dir)
    whole = make_split(smooth_images(NUM_TRAIN + NUM_VALIDATION))
    assert hash_images(carved) == hash_images(carved[:1]) == hash_images([whole])
    directory = shutil.copytree(data_dir, tmp_path / "data")
    # The training file is the same, but none of its images are held out any more.
    np.save(directory / "tiny" / "validation_images.npy", smooth_images(5, seed=3))
    assert hash_images(load(directory)) != hash_images(carved)
