"""Tests of vae_jax/metrics/metric.py and stored.py: what a metric is called, and its file."""

import dataclasses
import json
import math

import pytest

from tests.conftest import REPOSITORY
from vae_jax.errors import InputError
from vae_jax.metrics import stored
from vae_jax.metrics.metric import Metric, by_key

RUNS = ("celeba_10k", "cifar10_cpu_prior", "fashion_mnist", "fashion_mnist_binary")
ELBO = Metric(
    name="elbo",
    value=-234.567,
    unit="nats",
    image_set="test",
    num_images=10_000,
    seed=0,
    checkpoint_step=7,
    protocol="one draw z ~ q(z|x)",
    standard_error=0.891,
)
FID = dataclasses.replace(
    ELBO,
    name="fid",
    unit="",
    image_set="samples",
    reference_split="train",
    preprocessing="pytorch_fid",
    tap=768,
    protocol="against 9,000",
    is_biased=True,
    standard_error=None,
)
SCORE = dataclasses.replace(
    FID,
    name="inception_score",
    image_set="reconstruction_means",
    reference_split="test",
    preprocessing="clean",
    tap=None,
    protocol="in 10 splits",
    is_biased=False,
)
KEYS = {
    "elbo": ELBO,
    "samples_vs_train/fid_768": FID,
    "samples_vs_train/fid": dataclasses.replace(FID, tap=2048),
    "samples_vs_train/clean_fid_768": dataclasses.replace(FID, preprocessing="clean"),
    "reconstruction_means_vs_test/clean_inception_score": SCORE,
}
DESCRIPTIONS = [
    (ELBO, "one draw z ~ q(z|x)"),
    (
        FID,
        "10,000 images against 9,000, 768 features, biased: singular covariance, "
        "pytorch_fid preprocessing",
    ),
    (
        dataclasses.replace(FID, name="kid", protocol="against as many", is_biased=False),
        "10,000 images against as many, 768 features, pytorch_fid preprocessing",
    ),
    (SCORE, "10,000 images in 10 splits, clean preprocessing"),
]


@pytest.mark.parametrize("key", KEYS)
def test_key_and_label_are_made_of_the_fields(key):
    metric = KEYS[key]
    assert metric.key == key
    assert metric.label == key.split("/")[-1]
    assert metric.pair == (key.split("/")[0] if "/" in key else None)


@pytest.mark.parametrize(("metric", "text"), DESCRIPTIONS)
def test_description_is_made_of_the_fields(metric, text):
    assert metric.description == text


def test_what_is_written_is_read_again_in_the_same_order(tmp_path):
    metrics = by_key([SCORE, *KEYS.values(), dataclasses.replace(ELBO, name="units", value=3)])
    stored.write(tmp_path / "metrics.json", metrics)
    found = stored.read(tmp_path / "metrics.json")
    assert found == metrics and list(found) == list(metrics)
    assert isinstance(found["units"].value, int)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["version"] == 2 and content["metrics"].keys() == metrics.keys()


def test_metric_that_is_not_finite_is_null_with_its_reason(tmp_path):
    path = tmp_path / "metrics.json"
    values = {"value": -math.inf, "standard_error": math.nan}
    stored.write(path, by_key([dataclasses.replace(ELBO, **values)]))
    fields = json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"]["elbo"]
    for name, value in values.items():
        assert fields[name] is None and float(fields[f"{name}/not_finite"]) == pytest.approx(
            value, nan_ok=True
        )
        assert getattr(stored.read(path)["elbo"], name) == pytest.approx(value, nan_ok=True)


def test_file_of_an_earlier_version_with_nan_is_read(tmp_path):
    path = tmp_path / "metrics.json"
    fields = dataclasses.asdict(dataclasses.replace(ELBO, value=math.nan))
    path.write_text(json.dumps({"version": 2, "metrics": {"elbo": fields}}))
    assert "NaN" in path.read_text() and math.isnan(stored.read(path)["elbo"].value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        '{"epoch": 3, "loss": 1}',
        '{"version": 2}',
        '{"version": 2, "metrics": [1]}',
        '{"version": 2, "metrics": {"elbo": {"value": 1}}}',
    ],
)
def test_other_content_says_what_to_do(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path} (is damaged|does not hold the metrics)"):
        stored.read(path)


# Version 1: {key: fields}, where the protocol says what other fields say in version 2


@pytest.mark.parametrize("run", RUNS)
def test_committed_files_have_the_same_keys_numbers_and_texts(run):
    path = REPOSITORY / "workdir" / run / "eval" / "metrics.json"
    content, metrics = json.loads(path.read_text()), stored.read(path)
    assert "version" not in content and list(metrics) == list(content)
    for (key, metric), fields in zip(metrics.items(), content.values(), strict=True):
        assert metric.key == key
        assert metric.description == fields["protocol"]
        for name in fields.keys() - {"split", "protocol"}:
            assert getattr(metric, name) == fields[name], (key, name)
        if "/" not in key:
            assert metric.name == metric.label == key and metric.image_set == fields["split"]
            assert metric.reference_split is metric.tap is metric.preprocessing is None
            continue
        assert metric.reference_split == fields["split"]
        assert f"{metric.image_set}_vs_{metric.reference_split}/{metric.name}_768" == key
        assert metric.tap == 768 and metric.preprocessing == "pytorch_fid"
        assert not metric.is_biased


@pytest.mark.parametrize(("metric", "text"), DESCRIPTIONS)
def test_identity_is_taken_from_key_and_protocol_of_version_1(metric, text, tmp_path):
    fields = {
        name: getattr(metric, name)
        for name in ("value", "unit", "num_images", "seed", "checkpoint_step", "standard_error")
    }
    fields |= {"split": metric.reference_split or metric.image_set, "protocol": text}
    (tmp_path / "metrics.json").write_text(json.dumps({metric.key: fields}))
    assert stored.read(tmp_path / "metrics.json") == {metric.key: metric}


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_unknown_version_says_what_to_do(tmp_path, version):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"version": version, "metrics": {}}))
    with pytest.raises(InputError, match=f"{path}: version = {version!r} must be 1 or 2: update"):
        stored.read(path)
