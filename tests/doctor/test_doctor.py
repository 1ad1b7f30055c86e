"""Tests of vae_jax/doctor as a whole: findings, the diagnosis of a model."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.conftest import NUM_TRAIN, NUM_VALIDATION, make_experiment
from vae_jax import doctor
from vae_jax.data import Split
from vae_jax.doctor import curves, diagnosis, examination, findings, model
from vae_jax.doctor.findings import Finding
from vae_jax.metrics.latents import ACTIVE_VARIANCE
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import memory


def make_finding(severity: str = "warning", name: str = "rust", panel: str = "") -> Finding:
    return Finding(name, severity, "Seen 3.", "Allowed 2.", "It is old.", "paint it", panel)


# Findings


def test_unknown_severity_is_refused():
    with pytest.raises(ValueError, match="'fatal' must be one of severe, warning, note"):
        make_finding("fatal")


@pytest.mark.parametrize("severity", findings.SEVERITIES)
def test_only_severe_findings_are_severe(severity):
    assert make_finding(severity).is_severe == (severity == "severe")
    one = doctor.Diagnosis(1, [make_finding("note"), make_finding(severity)], [])
    assert one.is_severe == (severity == "severe")


def test_findings_are_sorted_by_severity_and_otherwise_stay_in_order():
    names = ["note", "severe", "warning", "severe", "note", "warning"]
    mixed = [make_finding(severity, f"{i}") for i, severity in enumerate(names)]
    assert [f.name for f in findings.sort_findings(mixed)] == ["1", "3", "2", "5", "0", "4"]


def test_finding_is_one_line_of_a_log():
    finding = make_finding()
    assert str(finding) == "warning: rust: Seen 3. Remedy: paint it"
    two = doctor.Diagnosis(1, [finding, make_finding("note", "moss")], [])
    assert [line.split(":")[1] for line in str(two).splitlines()] == [" rust", " moss"]
    assert str(doctor.Diagnosis(1, [], [])) == "no problems were found"


@pytest.mark.parametrize("panel", ["", "gradient norm"])
def test_markdown_has_every_field(panel):
    lines = findings.to_markdown([make_finding(panel=panel), make_finding("note", "moss")])
    text = "\n".join(lines)
    assert text.index("warning: rust.** It is old.") < text.index("note: moss.**")
    for field in ("- Evidence: Seen 3.", "- Threshold: Allowed 2.", "- Remedy: paint it"):
        assert text.count(field) == 2
    assert text.count("(panel: gradient norm)") == (1 if panel else 0)
    assert text.count("panel") == (1 if panel else 0)


def test_markdown_of_no_finding_says_so():
    assert findings.to_markdown([]) == ["No problems were found.", ""]


# A model and its splits


@pytest.fixture(scope="module")
def splits(vae) -> tuple[Split, Split]:
    return tuple(vae.experiment.dataset.split(name) for name in ("train", "validation"))


@pytest.fixture(scope="module")
def examined(vae, splits) -> examination.Examination:
    return examination.examine(vae, *splits)


def test_examination_covers_all_images_of_small_splits(examined, vae, splits):
    train, validation = (split.take(np.arange(len(split))) for split in splits)
    assert len(examined.train_elbo) == NUM_TRAIN == examined.num_train
    assert len(examined.validation_elbo) == NUM_VALIDATION == examined.num_validation
    assert examined.step == vae.step
    means = np.float64(vae.encode(validation).mean)
    np.testing.assert_allclose(examined.code_variance, means.var(axis=0), rtol=1e-4)
    x = validation / 255.0
    np.testing.assert_allclose(examined.pixel_variance, x.var(axis=0).mean(), rtol=1e-5)
    # Parseval: the power of an image is its variance over pixels.
    contrast = x.var(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(examined.data_power.sum(), contrast, rtol=1e-5)
    # The examination takes one draw: it is within the spread of the bound over 20 other draws.
    for elbo, evaluated, images in (
        (examined.train_elbo, vae, train),
        (examined.validation_elbo, vae, validation),
        (examined.raw_elbo, vae.raw, validation),
    ):
        others = [evaluated.elbo(images, jax.random.key(k)).mean() for k in range(20)]
        assert abs(elbo.mean() - np.mean(others)) < 6 * np.std(others)
    assert examined.likelihood_std is None  # no Gaussian
    assert examined.active_units == (means.var(axis=0) >= ACTIVE_VARIANCE).sum()
    np.testing.assert_allclose(examined.rate, examined.rate_per_dim.sum())


def test_examination_is_the_same_each_time(examined, vae, splits):
    again = examination.examine(vae, *splits)
    for field in dataclasses.fields(examined):
        one, other = (getattr(e, field.name) for e in (examined, again))
        np.testing.assert_array_equal(one, other, err_msg=field.name)


def test_copies_of_images_are_at_distance_zero(vae, splits, monkeypatch):
    """Samples that are training images, or images moved by one level in every pixel."""
    train, validation = (split.take(np.arange(12)) / np.float32(255) for split in splits)

    def distances_of(copies):
        monkeypatch.setattr(vae, "decode", lambda z: np.resize(copies, (len(z), *copies.shape[1:])))
        e = examination.examine(vae, *splits)
        return e.train_distances, e.validation_distances, (e.num_nearest_train, e.num_nearest)

    to_train, to_validation, counts = distances_of(train)
    assert counts == (12, 12)  # each image once, however many samples resemble it
    assert to_train.max() < 1e-3 < to_validation.min()
    moved = np.where(validation > 0.5, validation - 1 / 255, validation + 1 / 255)
    _, to_validation, counts = distances_of(moved)
    assert counts == (0, 12)
    np.testing.assert_allclose(to_validation, 1 / 255, rtol=1e-2)


@pytest.mark.parametrize(("size", "side"), [(16, 16), (63, 63), (64, 32), (100, 33)])
def test_large_images_are_reduced_by_block_means_for_distances(size, side):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    factor = size // side
    rows = examination._flatten(images)
    assert rows.shape == (2, side * side * 3)
    first = images[1, :factor, factor : 2 * factor, 2].mean() / 255.0
    np.testing.assert_allclose(rows.reshape(2, side, side, 3)[1, 0, 1, 2], first, rtol=1e-5)
    np.testing.assert_allclose(examination._flatten(images / np.float32(255)), rows, rtol=1e-5)


@pytest.mark.parametrize("shape", [(64, 1), (1, 64), (1, 1), (3, 5), (2048, 2)])
def test_sides_are_reduced_by_factors_of_their_own(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 1), np.uint8)
    reduced = [side // max(1, side // 32) for side in shape]
    rows = examination._flatten(images)
    assert rows.shape == (2, reduced[0] * reduced[1])
    np.testing.assert_allclose(rows.mean(axis=1), images.mean(axis=(1, 2, 3)) / 255, rtol=1e-5)


def test_large_images_are_examined_in_smaller_numbers(vae, splits, monkeypatch):
    """There is room for 5 decoded images, but 10 are the least that allow a conclusion."""
    monkeypatch.setattr(memory, "HOST_BYTES", 5 * memory.MEASURED * 16 * 16)
    e = examination.examine(vae, *splits)
    assert len(e.train_distances) == len(e.validation_distances) == examination.MIN_NUM_IMAGES
    assert len(e.validation_elbo) == NUM_VALIDATION  # these are not decoded
    assert e.num_train == NUM_TRAIN


def check_files(directory: pathlib.Path, expected: doctor.Diagnosis) -> str:
    """Asserts that both files exist and that the text has all findings in order; returns it."""
    pixels = np.asarray(Image.open(directory / diagnosis.FIGURE_FILE))
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10
    text = (directory / diagnosis.REPORT_FILE).read_text()
    assert text.startswith(f"# Diagnosis at step {expected.step:,}\n")
    assert f"({diagnosis.FIGURE_FILE})" in text
    found = re.findall(r"^\*\*(\w+): (\w+)\.\*\*", text, re.MULTILINE)
    assert found == [(f.severity, f.name) for f in expected.findings]
    return text


def test_diagnosis_of_a_trained_model_is_written(vae, splits, trained_workdir, tmp_path):
    extra = make_finding("note", "rust")
    records = read_metrics(trained_workdir)
    result = doctor.diagnose(vae.experiment, records, *splits, vae, [extra])
    assert result.step == vae.step
    assert extra in result.findings
    order = [findings.SEVERITIES.index(f.severity) for f in result.findings]
    assert order == sorted(order)
    result.write(tmp_path)
    check_files(tmp_path, result)
    assert {p.name for p in tmp_path.iterdir()} == {"diagnosis.md", "diagnosis.png"}


def sicken(examined: examination.Examination) -> examination.Examination:
    """Returns an examination in which every rule about a model finds something."""
    worst = np.abs(examined.validation_elbo).max()
    return dataclasses.replace(
        examined,
        train_elbo=examined.train_elbo + 100 * worst,
        raw_elbo=examined.validation_elbo + 100 * worst,
        rate_per_dim=np.full_like(examined.rate_per_dim, 1e-3),
        code_variance=np.zeros_like(examined.code_variance),
        swap_gap=np.zeros_like(examined.swap_gap),
        prior_variance=100.0 * examined.aggregate_variance,
        decoded_accuracy=0.99,
        reconstruction_power=1e-6 * examined.data_power,
        likelihood_std=10.0,
        train_distances=np.full(100, 0.0),
        validation_distances=np.full(100, 0.1),
        num_nearest_train=100,
        num_nearest=100,
    )


def sick_records() -> list[dict[str, float]]:
    """Returns records in which every rule about records finds something."""
    return [
        {
            "step": step,
            "train/elbo": float(step),
            "train/loss": 0.01 * 500.0 + 5.0,
            "train/distortion": 500.0,
            "train/rate": 5.0,
            "train/kl_weight": 1.0,
            "train/grad_norm": 1.0,
            "train/grad_norm_max": 1e5 if step == 80 else 1.0,
            "train/param_norm": 1.0,
            "train/update_norm": 1.0,
            "train/learning_rate": 1e-3,
            "train/skipped_updates": 9.0,
            "train/skipped_in_a_row": 9.0,
        }
        for step in range(10, 101, 10)
    ]


def test_every_panel_that_a_finding_names_is_in_the_figure(
    vae, splits, examined, monkeypatch, tmp_path
):
    monkeypatch.setattr(diagnosis, "examine", lambda *_: sicken(examined))
    overrides = {"likelihood__gaussian_variance": "fixed", "prior__name": "diffusion"}
    run = make_experiment(kl__weight=8.0, kl__warmup_steps=25, **overrides)
    result = doctor.diagnose(run, sick_records(), *splits, vae)
    assert len(result.findings) == len(curves.RULES) + len(model.RULES)
    titles = [panel.title for panel in result.panels]
    assert len(set(titles)) == len(titles)
    assert {finding.panel for finding in result.findings} <= {"", *titles}
    result.write(tmp_path)
    check_files(tmp_path, result)


def test_no_panel_is_named_that_the_figure_lacks_without_a_model(splits, tmp_path):
    """Without a model there are no panels about rates and codes."""
    result = doctor.diagnose(make_experiment(kl__warmup_steps=25), sick_records(), *splits)
    assert len(result.findings) == len(curves.RULES)
    assert result.step == 100
    titles = {panel.title for panel in result.panels}
    assert all(finding.panel in {*titles, ""} for finding in result.findings)
    assert "" in {f.panel for f in result.findings} != {""}
    result.write(tmp_path)
    check_files(tmp_path, result)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_model_that_is_not_finite_is_severe_and_still_written(
    vae, splits, trained_workdir, tmp_path, bad
):
    params = jax.tree.map(lambda p: jnp.full_like(p, bad), vae.params)
    spoilt = vae_jax.TrainedVAE(vae.experiment, params, 17, vae._steps, raw_params=params)
    records = read_metrics(trained_workdir)
    result = doctor.diagnose(vae.experiment, records, *splits, spoilt)
    severe = [finding.name for finding in result.findings if finding.is_severe]
    assert "non_finite_model" in severe
    result.write(tmp_path)
    text = check_files(tmp_path, result)
    assert "The ELBO of the model at step 17 is not finite." in text


@pytest.mark.parametrize(("num_images", "is_examined"), [(9, False), (10, True)])
def test_model_is_examined_from_ten_images_on(vae, splits, num_images, is_examined):
    train, validation = splits
    few = dataclasses.replace(validation, indices=validation.indices[:num_images])
    result = doctor.diagnose(vae.experiment, [], train, few, vae)
    named = "too_few_images" in {finding.name for finding in result.findings}
    assert named != is_examined
    assert ("rate per dimension" in {panel.title for panel in result.panels}) == is_examined
