"""Tests of vae_jax/studies/priors.py: tiny fits on a tiny VAE, with a stand-in for the network."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.conftest import IMAGE_SHAPE, NUM_TEST, SMALL_PRIOR, make_config
from tests.evaluation.test_sample_quality import features_of, stand_in_weights
from vae_jax import config as configuration
from vae_jax import evaluation, inference, training
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.runtime.workdir import WorkdirBusyError
from vae_jax.studies import engine, priors_metrics
from vae_jax.studies import priors as compare

TAP = 6
NUM_SAMPLES = NUM_TEST
NAMES = ("mixture", "diffusion")


class StandIn(FeatureExtractor):
    """Projects the pixels in place of the network."""

    def features(self, images):
        return {tap: features_of(images, tap, self.preprocessing) for tap in self.taps}


SMALL = {
    "model__latent_shape": (4, 4, 2),
    "train__num_steps": 4,
    "train__eval_every_steps": 4,
    "kl__warmup_steps": 2,
}


@pytest.fixture(scope="module")
def vae_workdir(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared") / "vae"
    training.train_and_evaluate(make_config(data_dir, **SMALL), workdir, evaluation.validate)
    return workdir


def make_comparison(data_dir, workdir, names=NAMES, taps=(TAP,)) -> compare.Comparison:
    def get_config(name):
        return make_config(data_dir, **SMALL, **SMALL_PRIOR, prior__name=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "TAPS", (TAP,))
        patch.setattr(sample_quality, "FID_TAP", TAP)
        patch.setattr(priors_metrics, "FeatureExtractor", StandIn)
        weights = stand_in_weights(taps, has_logits=False)
        tempered = [("diffusion", 0.5)] if "diffusion" in names else []
        return compare.Comparison(get_config, workdir, names, tempered, NUM_SAMPLES, 4, weights)


@pytest.fixture(scope="module")
def compared(data_dir, vae_workdir):
    """The directory of a finished comparison."""
    comparison = make_comparison(data_dir, vae_workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sets, "BLOCK_SIZE", 10)
        assert comparison.fit_all() is None
        comparison.measure_all()
    return vae_workdir / "priors"


@pytest.fixture(scope="module")
def results(compared) -> dict:
    return json.loads((compared / "table.json").read_text())


def test_rows_are_the_priors_and_the_temperature(results):
    assert list(results) == [
        *("decoded aggregate posterior", "standard_normal", *NAMES),
        "diffusion, temperature 0.5",
    ]


def test_prior_trained_with_the_vae_has_a_row_of_its_own(data_dir, tmp_path):
    """It has one even if a prior of the same name is fitted."""
    for own, label in (("diffusion", "diffusion, trained with the VAE"), ("vamp", "vamp")):
        config = make_config(data_dir, prior__name=own)
        configuration.save(config, IMAGE_SHAPE, {}, tmp_path)
        rows = {row.label: row.workdir for row in make_comparison(data_dir, tmp_path).rows}
        assert rows.pop(compare.AGGREGATE) == tmp_path
        fitted = {name: tmp_path / "priors" / name for name in NAMES}
        tempered = {"diffusion, temperature 0.5": fitted["diffusion"]}
        assert rows == {label: tmp_path, **fitted, **tempered}


def test_bounds_are_those_of_the_runs(results, compared, vae_workdir):
    """Metrics that do not depend on the prior are the same in all rows."""
    for name in NAMES:
        vae = inference.load(compared / name)
        split = vae.experiment.dataset.split("test")
        expected = evaluation.evaluate_bounds(vae, split)["elbo"].value
        np.testing.assert_allclose(results[name]["elbo"]["value"], expected, rtol=1e-6)
        np.testing.assert_allclose(
            results[name]["distortion"]["value"],
            results["standard_normal"]["distortion"]["value"],
            rtol=1e-6,
        )
    rates = [results[name]["rate"]["value"] for name in ("standard_normal", *NAMES)]
    assert len(set(rates)) == 3


def test_only_what_is_defined_is_reported(results):
    """Without a density there is no importance-weighted bound, at another temperature no bound."""
    assert "iw_elbo" in results["mixture"] and "iw_elbo" not in results["diffusion"]
    assert "elbo" not in results["diffusion, temperature 0.5"]
    assert "fit_seconds" not in results["standard_normal"]
    assert all(results[name]["fit_seconds"] > 0 for name in NAMES)
    assert results["standard_normal"]["num_parameters"] == 0


def test_distances_are_those_of_the_sets(results, compared):
    """They are to the test images and to one of two decoded sets of the aggregate posterior."""
    for row in results.values():
        assert {"fid", "kid", "precision", "recall", "fid_to_aggregate"} <= row["samples"].keys()
        assert row["samples"]["fid"][0] > 0
    to_aggregate = {name: row["samples"]["fid_to_aggregate"][0] for name, row in results.items()}
    assert len(set(to_aggregate.values())) == len(to_aggregate)


def test_table_and_picture_are_written(results, compared):
    lines = (compared / "table.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(results)
    assert len({line.count("|") for line in table}) == 1
    for name in NAMES:
        (line,) = (line for line in table if line.startswith(f"| {name} |"))
        assert f"{results[name]['bits_per_dim']['value']:.4f}" in line
    assert (compared / "samples.png").stat().st_size > 1000


def test_second_call_fits_and_extracts_nothing(compared, data_dir, vae_workdir, results):
    comparison = make_comparison(data_dir, vae_workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_and_evaluate", None)
        patch.setattr(StandIn, "features", None)
        patch.setattr(image_sets, "BLOCK_SIZE", 10)
        assert comparison.fit_all() is None
        comparison.measure_all()
    assert json.loads((compared / "table.json").read_text()) == results


def copy_vae(vae_workdir, tmp_path) -> pathlib.Path:
    """Returns the workdir of a VAE that has no priors yet."""
    return shutil.copytree(vae_workdir, tmp_path / "vae", ignore=lambda *_: {"priors"})


def test_priors_that_another_process_fits_are_waited_for(
    data_dir, vae_workdir, tmp_path, monkeypatch
):
    fitted, calls = [], []

    def fit(config, workdir):
        calls.append(config.prior.name)
        if calls == ["flow"]:
            raise WorkdirBusyError("busy")
        fitted.append(config.prior.name)
        return {"seconds": 1.0}

    copied = copy_vae(vae_workdir, tmp_path)
    monkeypatch.setattr(compare, "fit", fit)
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: None)
    comparison = make_comparison(data_dir, copied, ("flow", "mixture"))
    assert comparison.fit_all() is None
    assert fitted == ["mixture", "flow"]


def test_a_stopped_fit_stops_the_command(data_dir, vae_workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "fit", lambda config, workdir: 15)
    assert make_comparison(data_dir, copy_vae(vae_workdir, tmp_path)).fit_all() == 15


def test_seconds_of_interrupted_fits_add_up(tmp_path, data_dir, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(clock))
    outcomes = iter([15, None])
    monkeypatch.setattr(training, "train_and_evaluate", lambda *_: next(outcomes))
    config = make_config(data_dir)
    assert compare.fit(config, tmp_path) == 15
    assert compare.fit(config, tmp_path) == {"seconds": 5.0}
    assert json.loads((tmp_path / "fit.json").read_text()) == {"seconds": 5.0}


def test_weights_without_a_usable_layer_are_refused(data_dir, vae_workdir):
    rule = r"have the features \(3, 4\), but distances need one of \(6,\): give --inception_weights"
    with pytest.raises(ValueError, match=rule):
        make_comparison(data_dir, vae_workdir, taps=(3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=missing.py"], "--config=missing.py: no such Python file"),
        (["--config=configs/__init__.py"], "lacks get_config"),
        (["--tempered=flow"], "--tempered=flow: must be NAME:TEMPERATURE"),
        (["--tempered=vae:0.5"], "with a NAME of"),
        (["--priors=flo"], "prior.name = 'flo' is unknown"),
    ],
)
def test_mistakes_are_named(arguments, message, vae_workdir, data_dir, monkeypatch):
    weights = stand_in_weights((TAP,), has_logits=False)
    monkeypatch.setattr(compare.inception_weights, "find_or_download", lambda *_, **__: weights)
    monkeypatch.setattr(sample_quality, "TAPS", (TAP,))
    monkeypatch.setattr(priors_metrics, "FeatureExtractor", StandIn)
    defaults = ["--config=configs/fashion_mnist_prior.py", f"--workdir={vae_workdir}"]
    with pytest.raises(SystemExit, match=message):
        compare.main([*defaults, f"--data_dir={data_dir}", *arguments])
