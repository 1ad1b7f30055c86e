"""Evaluations of sets of a few images, of tiny images, and of images that are all equal.

What cannot be given is named, and no number is NaN.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.conftest import config_flags, run_python
from vae_jax import evaluation
from vae_jax.evaluation import grids, sample_quality
from vae_jax.evaluation.codes import reconstruction_metrics
from vae_jax.evaluation.sample_quality import MIN_NUM_IMAGES, measure_tap
from vae_jax.metrics.features import FeatureSet
from vae_jax.metrics.frechet import GaussianStatistics
from vae_jax.metrics.metric import standard_error
from vae_jax.runtime import memory

OPTIONS = evaluation.Options(num_failures=2, samples=sample_quality.Options(0))
NEED_TWO = {  # of the results without Inception features
    *("active_units", "mutual_information"),
    *("interpolations", "interpolations_of_noise", "principal_directions"),
}


def few(split, n: int):
    return dataclasses.replace(split, indices=split.indices[:n])


@pytest.fixture(scope="module")
def test_split(vae):
    return vae.experiment.dataset.split("test")


@pytest.mark.parametrize("n", [1, 2, 9])
def test_what_needs_two_images_is_missing_for_one_and_named(vae, test_split, n):
    metrics, pictures, notes = evaluation.evaluate(vae, few(test_split, n))
    every_metric, every_picture, _ = evaluation.evaluate(vae, test_split)
    missing = NEED_TWO if n == 1 else set()
    every = every_metric.keys() | every_picture.keys()
    assert metrics.keys() | pictures.keys() == every - missing
    assert set(notes) == {
        f"Missing: `{name}`: needs at least 2 images, the test split has 1." for name in missing
    }
    for metric in metrics.values():
        assert np.isfinite(metric.value) and metric.num_images <= n
        if n == 1:
            assert metric.standard_error is None
    assert all(np.ptp(picture) for picture in pictures.values())


def test_one_validation_image_is_enough_for_a_training(vae, test_split):
    summary = evaluation.validate(vae, few(test_split, 1))
    assert np.isfinite([*summary.scalars.values(), *summary.histograms["rate_per_dim"]]).all()
    assert summary.images["reconstructions"].shape[:2] == (2 * 66 + 2, 10 * 66 + 2)


def test_large_images_are_shown_in_fewer_whole_rows(vae, test_split, monkeypatch):
    """There is room for 30 images of the tiny model."""
    monkeypatch.setattr(memory, "HOST_BYTES", 30 * memory.MEASURED * 16 * 16)
    _, pictures, _ = evaluation.evaluate(vae, test_split)
    rows = {name: (len(picture) - 2) // 66 for name, picture in pictures.items()}
    assert rows == {
        **{"samples": 3, "samples_drawn": 3, "interpolations": 3, "interpolations_of_noise": 3},
        **{"reconstructions": 4, "nearest_neighbours": 6},  # two rows for 10 images
        **{"traversals": 2, "principal_directions": 2},  # of 11 images
    }


def test_an_evaluation_of_one_image_says_what_is_missing(copied_workdir, data_dir, tmp_path):
    directory = shutil.copytree(data_dir, tmp_path / "data")
    path = directory / "tiny" / "test_images.npy"
    np.save(path, np.load(path)[:1])
    result = evaluation.run(copied_workdir, dataclasses.replace(OPTIONS, data_dir=str(directory)))
    report = (result.directory / "report.md").read_text()
    assert "Missing: `interpolations`: needs at least 2 images, the test split has 1." in report
    assert "nan" not in report.lower().replace("dominant", "")
    assert [len(failures.failures) for failures in result.failures] == [1, 2]


# Reconstructions


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (11, 10, 1)])
def test_images_smaller_than_its_window_have_no_ssim(vae, test_split, shape, monkeypatch):
    monkeypatch.setattr(vae, "image_shape", shape)
    monkeypatch.setattr(vae, "decode", lambda z: np.zeros((len(z), *shape), np.float32))
    images = np.full((3, *shape), 100, np.uint8)
    (psnr,), (note,) = reconstruction_metrics(vae, test_split, images, np.zeros((3, 4)))
    np.testing.assert_allclose(psnr.value, -20 * np.log10(100 / 255), rtol=1e-5)
    size = f"{shape[0]}x{shape[1]}"
    assert note == f"Missing: `ssim`: needs images of at least 11x11 pixels, these are {size}."


def test_psnr_is_missing_where_a_reconstruction_equals_its_image(vae, test_split, monkeypatch):
    images = test_split.take(slice(0, 3))
    x = images / np.float32(255)
    decoded = np.stack([x[0], x[1], 1 - x[2]])
    monkeypatch.setattr(vae, "decode", lambda z: decoded)
    (ssim,), (note,) = reconstruction_metrics(vae, test_split, images, np.zeros((3, 4)))
    assert ssim.name == "ssim"
    assert note == (
        "Missing: `psnr`: it is infinite, because 2 of 3 reconstructions equal their images."
    )


def test_numbers_that_are_not_finite_have_no_standard_error():
    assert standard_error(np.array([1.0, np.inf])) is None
    assert standard_error(np.array([1.0, np.nan])) is None
    assert standard_error(np.array([1.0, 3.0])) == 1.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_path_between_latents_of_one_dimension_is_a_straight_line(sign):
    """All of them have the same or the opposite direction."""
    a, b = np.array([0.7], np.float32), np.array([sign * 0.3], np.float32)
    t = np.linspace(0.0, 1.0, 5)[:, None]
    np.testing.assert_allclose(grids.slerp(a, b, t), (1 - t) * a + t * b, rtol=1e-6)


# Sample metrics


def feature_set(n: int, seed: int = 0, spread: float = 1.0) -> FeatureSet:
    x = 3.0 + spread * np.random.default_rng(seed).normal(size=(n, 4))
    return FeatureSet({4: GaussianStatistics.of(x)}, {4: x.astype(np.float32)})


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("allow_biased", [False, True])
def test_each_metric_is_given_from_its_least_number_of_images_on(n, allow_biased):
    """Also if only one of the two sets is small."""
    least = {**MIN_NUM_IMAGES, "fid": 2 if allow_biased else 5}
    del least["inception_score"]  # not of two sets
    for num_real, num_fake in ((n, n), (n, 30), (30, n)):
        measured = measure_tap(
            feature_set(num_real), feature_set(num_fake, 1), 4, allow_biased, seed=0
        )
        assert measured.keys() == {name for name, k in least.items() if n >= k}
        values = [(m.value, m.standard_error or 0.0) for m in measured.values()]
        assert np.isfinite(values).all()


def test_precision_of_four_images_is_that_with_any_other_neighbour_for_density():
    real, fake = feature_set(4), feature_set(4, 1)
    measured = measure_tap(real, fake, 4, False, seed=0)
    x, y = real.features[4], fake.features[4]
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    radii = np.sort(distances, axis=1)[:, 3]
    inside = (np.linalg.norm(x[:, None] - y, axis=2) < radii[:, None]).any(axis=0)
    assert measured["precision"].value == inside.mean()


def test_sets_of_equal_images_have_numbers():
    measured = measure_tap(feature_set(9, spread=0), feature_set(9, spread=0), 4, True, seed=0)
    assert np.isfinite([m.value for m in measured.values()]).all()
    np.testing.assert_allclose(measured["fid"].value, 0, atol=1e-12)


# The commands


@pytest.mark.long
@pytest.mark.parametrize(("shape", "num_images"), [((1, 1, 1), 1), ((2, 2, 3), 2), ((3, 5, 1), 9)])
def test_commands_take_sets_of_any_size(tmp_path, shape, num_images):
    directory, workdir = tmp_path / "data" / "tiny", tmp_path / "run"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        images = rng.integers(2, 256, (num_images, *shape), np.uint8)
        np.save(directory / f"{split}_images.npy", images)
    flags = config_flags(tmp_path / "data", model__patch_size=1, train__diagnose=True)
    for command in (
        ["train.py", f"--workdir={workdir}", *flags],
        ["evaluate.py", f"--workdir={workdir}", "--num_samples=0"],
        ["-m", "vae_jax.doctor", f"--workdir={workdir}"],
    ):
        completed = run_python(*command)
        assert "Traceback" not in completed.stderr and "Warning" not in completed.stderr
        # The doctor's exit code is 1 if it finds something severe.
        assert completed.returncode == 0 or "vae_jax.doctor" in command, completed.stderr
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())["metrics"]
    assert all(np.isfinite(metric["value"]) for metric in metrics.values())
