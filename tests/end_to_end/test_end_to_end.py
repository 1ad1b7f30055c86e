"""train.py and evaluate.py as a user runs them."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import vae_jax
from tests.conftest import NUM_TEST, NUM_VALIDATION, TINY, make_config, run_python
from vae_jax import config as configuration
from vae_jax import evaluation, training
from vae_jax.errors import UserError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.metrics import inception_weights, stored
from vae_jax.metrics.inception_layers import LAYER_SHAPES

FIELDS = {
    *("name", "value", "unit", "image_set", "reference_split", "preprocessing", "tap"),
    *("num_images", "seed", "checkpoint_step", "protocol", "is_biased", "standard_error"),
}


def evaluate(workdir: pathlib.Path, num_samples=0, inception_weights=None, **options) -> None:
    """Evaluates a run in this process, which takes less time than evaluate.py."""
    samples = sample_quality.Options(num_samples, inception_weights)
    evaluation.run(workdir, evaluation.Options(samples=samples, **options))


@pytest.fixture(scope="module")
def evaluated(trained_workdir, tmp_path_factory):
    """A copy of the trained run after evaluate.py without sample metrics, and that process."""
    workdir = shutil.copytree(trained_workdir, tmp_path_factory.mktemp("runs") / "evaluated")
    completed = run_python("evaluate.py", f"--workdir={workdir}", "--num_samples=0")
    assert completed.returncode == 0, completed.stderr
    return workdir, completed


def test_metrics_file_holds_every_number_with_its_protocol(evaluated):
    workdir, _ = evaluated
    content = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert content.keys() == {"version", "metrics"} and content["version"] == 2
    metrics = content["metrics"]
    assert metrics.keys() >= {"elbo", "iw_elbo", "bits_per_dim", "psnr", "ssim", "active_units"}
    for name, metric in metrics.items():
        assert metric.keys() == FIELDS and metric["name"] == name
        part = TINY["eval.num_iw_images"] if name.startswith("iw_") else NUM_TEST
        assert metric["image_set"] == "test" and metric["num_images"] == part
        assert metric["reference_split"] is metric["preprocessing"] is metric["tap"] is None
        assert np.isfinite(metric["value"])


def test_numbers_are_those_of_the_loaded_model(evaluated, vae):
    metrics = stored.read(evaluated[0] / "eval" / "metrics.json")
    expected, *_ = evaluation.evaluate(vae, vae.experiment.dataset.split("test"))
    assert metrics.keys() == expected.keys()
    for name, metric in expected.items():  # one device there, two here
        np.testing.assert_allclose(metrics[name].value, metric.value, rtol=1e-4, err_msg=name)


def test_report_mentions_every_metric_and_its_pictures_open(evaluated):
    workdir, _ = evaluated
    report = (workdir / "eval" / "report.md").read_text()
    for name in stored.read(workdir / "eval" / "metrics.json"):
        assert f"| `{name}` |" in report
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report)
    assert len(pictures) == 9 + 2 + 1  # evaluation, failures, diagnosis
    for picture in pictures:
        pixels = np.asarray(Image.open(workdir / "eval" / picture))
        assert len(np.unique(pixels)) > 10, picture


def test_every_failure_is_in_the_report_and_in_a_file(evaluated):
    workdir, _ = evaluated
    report = (workdir / "eval" / "report.md").read_text()
    galleries = json.loads((workdir / "eval" / "gallery.json").read_text())
    assert [g["name"] for g in galleries] == ["worst_reconstructions", "worst_samples"]
    for failures in galleries:
        assert len(failures["failures"]) == 16
        assert sum(group["num_failures"] for group in failures["groups"]) == 16
        section = report.split(f"### {failures['heading']}\n")[1].split("\n## ")[0]
        for rank, failure in enumerate(failures["failures"], start=1):
            row = failure.get("sample", failure.get("image"))
            assert f"\n| {rank} | {row} | " in section


def test_report_carries_the_configuration(evaluated):
    workdir, _ = evaluated
    report = (workdir / "eval" / "report.md").read_text()
    for key, value in configuration.flatten(configuration.load(workdir)).items():
        assert f"\n{key} = {value}\n" in report


def test_console_names_every_metric_and_every_file(evaluated, vae):
    workdir, completed = evaluated
    first = completed.stdout.strip().splitlines()[0]
    assert str(workdir) in first and "test split" in first and f"step {vae.step}" in first
    for name in stored.read(workdir / "eval" / "metrics.json"):
        assert re.search(rf"^  {name} +\S", completed.stdout, re.MULTILINE)
    files = [workdir / "eval" / name for name in ("report.md", "metrics.json", "gallery.json")]
    for path in [*files, *(workdir / "eval" / "images").iterdir()]:
        assert str(path) in completed.stdout


def test_evaluation_leaves_the_run_as_it_was(evaluated, trained_workdir):
    workdir, _ = evaluated
    for path in trained_workdir.rglob("*"):
        if path.is_file():
            copy = workdir / path.relative_to(trained_workdir)
            assert copy.read_bytes() == path.read_bytes(), copy


def test_other_split_checkpoint_and_data_go_into_a_directory_of_their_own(
    copied_workdir, data_dir, tmp_path
):
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    (moved / "tiny" / "test_images.npy").write_bytes(b"never opened")
    evaluate(
        copied_workdir,
        split="validation",
        checkpoint=20,
        data_dir=str(moved),
        num_iw_images=0,
        num_failures=3,
    )
    assert not (copied_workdir / "eval").exists()
    metrics = stored.read(copied_workdir / "eval_validation" / "metrics.json")
    assert {m.image_set for m in metrics.values()} == {"validation"}
    assert {m.checkpoint_step for m in metrics.values()} == {20}
    assert {m.num_images for m in metrics.values()} == {NUM_VALIDATION}
    galleries = json.loads((copied_workdir / "eval_validation" / "gallery.json").read_text())
    assert [len(g["failures"]) for g in galleries] == [3, 3]


# Sample metrics


def test_report_says_that_sample_metrics_were_not_asked_for(evaluated, data_dir):
    report = (evaluated[0] / "eval" / "report.md").read_text()
    assert "Sample metrics are switched off (--num_samples=0)." in report
    assert not (data_dir / "inception").exists()


@pytest.fixture
def own_data_dir(data_dir, tmp_path) -> pathlib.Path:
    """Data beside which weights and features may be stored."""
    shutil.copytree(data_dir / "tiny", tmp_path / "own" / "tiny")
    return tmp_path / "own"


def test_without_weights_and_network_all_else_is_evaluated(copied_workdir, own_data_dir, evaluated):
    completed = run_python(
        "evaluate.py", f"--workdir={copied_workdir}", f"--data_dir={own_data_dir}"
    )
    assert completed.returncode == 0, completed.stderr
    expected = stored.read(evaluated[0] / "eval" / "metrics.json")
    assert stored.read(copied_workdir / "eval" / "metrics.json") == expected
    report = (copied_workdir / "eval" / "report.md").read_text()
    section = report.split("## Missing results")[1].split("## Pictures")[0]
    assert section.strip().startswith("Missing: all metrics on Inception features")
    assert section.strip() in completed.stderr
    for part in (*inception_weights.URLS, str(own_data_dir), "--inception_weights=FILE"):
        assert part in section
    assert list((own_data_dir / "inception").iterdir()) == []


def save_random_weights(path: pathlib.Path, last: str) -> pathlib.Path:
    """Saves all layers up to `last`, scaled to keep the size of activations (He et al. 2015)."""
    rng = np.random.default_rng(0)
    layers = {}
    for name, shape in LAYER_SHAPES.items():
        kernel = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        layers[name] = kernel.astype(np.float32), np.zeros(shape[-1], np.float32)
        if name == last:
            break
    path.parent.mkdir(exist_ok=True)
    inception_weights.save(inception_weights.InceptionWeights(layers), path)
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("mixed_7_tower_2_conv", {"fid_768", "kid_768"}),
        ("softmax", {"fid", "fid_768", "kid", "kid_768", "inception_score"}),
    ],
    ids=["partial", "full"],
)
def test_samples_are_evaluated_with_weights(copied_workdir, own_data_dir, evaluated, last, names):
    """Partial weights are found in the data directory; full ones are given."""
    is_full = last == "softmax"
    path = own_data_dir.parent / "weights.npz" if is_full else own_data_dir / "inception/any.npz"
    save_random_weights(path, last)
    completed = run_python(
        "evaluate.py",
        f"--workdir={copied_workdir}",
        f"--data_dir={own_data_dir}",
        "--num_samples=12",
        "--allow_biased_fid",
        *([f"--inception_weights={path}"] if is_full else []),
    )
    assert completed.returncode == 0, completed.stderr
    metrics = stored.read(copied_workdir / "eval" / "metrics.json")
    plain = stored.read(evaluated[0] / "eval" / "metrics.json")
    assert {name: m for name, m in metrics.items() if "/" not in name} == plain
    # This run has no samples at a temperature other than 1.
    sets = [name for name in image_sets.SETS if not name.startswith("tempered_")]
    assert len(sets) == len(image_sets.SETS) - 2
    generated = [name for name in sets if name not in ("train", "test")]
    for name in generated:
        assert {n for n in names if f"{name}_vs_test/{n}" in metrics} == names
    assert any(name.endswith("/fid") for name in metrics) == is_full
    for name, metric in metrics.items():
        assert metric.key == name and np.isfinite(metric.value), name
        assert "/" not in name or metric.num_images == 12
    report = (copied_workdir / "eval" / "report.md").read_text()
    section = report.split("## Sample quality")[1].split("## Pictures")[0]
    galleries = json.loads((copied_workdir / "eval" / "gallery.json").read_text())
    names_of_galleries = ["worst_reconstructions", "worst_perceptual", "worst_samples"]
    assert [g["name"] for g in galleries] == names_of_galleries
    assert [g["num_candidates"] for g in galleries] == [NUM_TEST, 12, 12]
    assert ("Missing: `fid` and all other metrics on 2048 features" in report) != is_full
    for name in names:
        assert f"`{name}`" in section
    for name in image_sets.SETS:
        assert (f"| `{name}`: " in section) == (name in sets)
    picture = copied_workdir / "eval" / "images" / "aggregate_posterior.png"
    assert "images/aggregate_posterior.png" in report
    assert len(np.unique(np.asarray(Image.open(picture)))) > 10
    for pair in {name.split("/")[0] for name in metrics if "/" in name}:
        assert re.search(rf"^  {pair} +\S", completed.stdout, re.MULTILINE)
    assert len(list((own_data_dir / "inception" / "reference").glob("tiny-*-12-*.npz"))) == 2


# User errors end with one line and exit code 1


def assert_one_line(completed, script: str, message: str) -> None:
    assert completed.returncode == 1
    lines = [line for line in completed.stderr.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 1 and lines[0].startswith(f"{script}: "), completed.stderr
    assert re.search(message, lines[0]), completed.stderr


def test_wrong_flag_of_evaluate(copied_workdir):
    """The one line has no progress bar either, because no long computation has started."""
    flags = [f"--workdir={copied_workdir}", "--num_samples=0", "--checkpoint=7"]
    message = r"checkpoint '7' is not in .*: it holds the steps \[20, 24\]"
    assert_one_line(run_python("evaluate.py", *flags), "evaluate.py", message)
    flags = [*flags[:2], "--inception_weights=/none.pth"]
    message = "--inception_weights would have no effect, because"
    assert_one_line(run_python("evaluate.py", *flags), "evaluate.py", message)
    assert not (copied_workdir / "eval").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "newest"}, "'newest'.*'best'.*'latest'"),
        ({"data_dir": "/nonexistent"}, "/nonexistent"),
        ({"num_iw_images": -3}, "num_iw_images = -3"),
        ({"num_failures": -1}, "num_failures = -1: must be an integer"),
        ({"num_samples": 5}, "num_samples = 5 must be an integer, at least 10, or 0"),
        (
            {"num_samples": 10, "inception_weights": "/none.pth"},
            "/none.pth: there is no such file",
        ),
    ],
)
def test_wrong_option_of_an_evaluation(copied_workdir, options, message):
    """The command prints the message of this error in one line, as the test above shows."""
    with pytest.raises(UserError, match=message):
        evaluate(copied_workdir, **options)
    assert not (copied_workdir / "eval").exists()


def test_wrong_data_dir_is_not_created_for_the_weights(copied_workdir, tmp_path):
    with pytest.raises(UserError, match="wrong"):
        evaluate(copied_workdir, num_samples=10, data_dir=str(tmp_path / "wrong"))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("output", ["", "s3://bucket/x", "a\nb"])
def test_place_that_cannot_be_used_is_refused(copied_workdir, output):
    with pytest.raises(UserError, match="--output"):
        evaluate(copied_workdir, output=output)


def test_empty_directory_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a training run: give the --workdir"):
        evaluate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_training_in_the_workdir_of_another_configuration(copied_workdir, data_dir):
    config = make_config(data_dir, kl__weight=2.0)
    with pytest.raises(UserError, match=r"\n  kl\.weight: 1\.0 in the workdir, 2\.0 now\n"):
        training.train_and_evaluate(config, copied_workdir, evaluation.validate)


def test_package_loads_the_evaluated_run(evaluated):
    assert vae_jax.load(evaluated[0], "latest").step == 24
