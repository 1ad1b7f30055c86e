"""Tests of benchmarks/quality_over_time.py: a tiny run, a stand-in network."""

import json

import numpy as np
import pytest
import scipy.linalg

import vae_jax
from benchmarks import quality_over_time
from tests.conftest import NUM_TEST
from tests.evaluation.test_sample_quality import stand_in_weights
from tests.studies.test_priors import TAP, StandIn
from vae_jax import checkpoints
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.recording import writers


def write_metrics(workdir, images_per_second):
    """Writes records of these speeds at steps 2, 4, ..., and one of an evaluation among them."""
    records = [{"step": 2, "validation/elbo": 1.0}]
    for i, speed in enumerate(images_per_second):
        records.append({"step": 2 * (i + 1), "train/images_per_second": speed})
    lines = "\n".join(map(json.dumps, records))
    (workdir / writers.METRICS_FILE).write_text(lines + "\n")


def test_seconds_are_images_over_speed(copied_workdir):
    batch_size = vae_jax.load(copied_workdir).experiment.training.batch_size
    write_metrics(copied_workdir, [10.0, 5.0, 20.0])
    expected = 2 * batch_size * np.cumsum([1 / 10, 1 / 5, 1 / 20])
    found = [quality_over_time.seconds_of_training(copied_workdir, step) for step in (2, 4, 6)]
    np.testing.assert_allclose(found, expected)


def test_a_checkpoint_between_two_records_is_refused(copied_workdir):
    write_metrics(copied_workdir, [10.0, 5.0])
    for step, last in ((3, 2), (6, 4)):
        with pytest.raises(
            ValueError, match=f"no record of step {step},.*record before it is of step {last}"
        ):
            quality_over_time.seconds_of_training(copied_workdir, step)


@pytest.fixture(scope="module")
def measured(trained_workdir, data_dir, tmp_path_factory):
    """The same run given twice: (content of curve.json, table, directory)."""
    directory = tmp_path_factory.mktemp("curve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "TAPS", (TAP,))
        patch.setattr(sample_quality, "FID_TAP", TAP)
        patch.setattr(quality_over_time, "FeatureExtractor", StandIn)
        curve = quality_over_time.Curve(
            [trained_workdir, trained_workdir],
            NUM_TEST,
            stand_in_weights((TAP,), has_logits=False),
            str(data_dir),
            directory,
        )
        content = curve.measure()
        quality_over_time.save_picture(content, directory / "curve.png")
        table = quality_over_time.make_table(content)
    return content, table, directory


def test_every_checkpoint_is_a_point_and_time_continues_in_the_next_run(measured, trained_workdir):
    steps = checkpoints.Checkpoints(trained_workdir).steps()
    points = measured[0]["points"]
    assert [point["step"] for point in points] == 2 * steps
    minutes = [point["minutes"] for point in points]
    assert minutes[0] > 0
    seconds = np.array([quality_over_time.seconds_of_training(trained_workdir, s) for s in steps])
    np.testing.assert_allclose(60 * np.array(minutes), [*seconds, *(seconds[-1] + seconds)])


def test_distance_is_that_of_the_checkpoint(measured, trained_workdir, data_dir):
    """Recomputes the distance with SciPy from the images of each checkpoint."""
    extractor = StandIn(stand_in_weights((TAP,), has_logits=False), [TAP])

    def features(images):
        return np.asarray(extractor.features(images)[TAP], np.float64)

    x = features(np.load(data_dir / "tiny" / "test_images.npy"))
    points = measured[0]["points"]
    for point in points:
        vae = vae_jax.load(trained_workdir, point["step"])
        y = features(image_sets.sample_means(vae, NUM_TEST)[1])
        root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
        spread = np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
        expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + spread
        assert point["fid"] == pytest.approx(expected, rel=1e-3)
    assert len({point["fid"] for point in points}) == len(points) / 2


def test_table_and_picture(measured):
    content, table, directory = measured
    lines = "\n".join(table.to_markdown()).strip().splitlines()
    assert len(lines) == 2 + len(content["points"])
    assert f"{content['points'][-1]['fid']:.3g}" in lines[-1]
    assert (directory / "curve.png").stat().st_size > 1000
