"""train.py and evaluate.py as a user runs them."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import NUM_TEST, NUM_VALIDATION, TINY, config_flags, run_python
from PIL import Image

import vae_jax
from vae_jax import config as configuration
from vae_jax import evaluation

FIELDS = {"value", "unit", "split", "num_images", "seed", "checkpoint_step", "protocol"}


@pytest.fixture(scope="module")
def evaluated(trained_workdir, tmp_path_factory):
    """A copy of the trained run after evaluate.py, and that process."""
    workdir = shutil.copytree(trained_workdir, tmp_path_factory.mktemp("runs") / "evaluated")
    completed = run_python("evaluate.py", f"--workdir={workdir}")
    assert completed.returncode == 0, completed.stderr
    return workdir, completed


def test_metrics_file_holds_every_number_with_its_protocol(evaluated):
    workdir, _ = evaluated
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert metrics.keys() >= {"elbo", "iw_elbo", "bits_per_dim", "psnr", "ssim", "active_units"}
    for name, metric in metrics.items():
        assert metric.keys() == FIELDS | {"standard_error"}, name
        part = TINY["eval.num_iw_images"] if name.startswith("iw_") else NUM_TEST
        assert metric["split"] == "test" and metric["num_images"] == part
        assert np.isfinite(metric["value"])


def test_numbers_are_those_of_the_loaded_model(evaluated, vae):
    metrics = json.loads((evaluated[0] / "eval" / "metrics.json").read_text())
    expected, _ = evaluation.evaluate(vae, configuration.load_split(vae.config, "test"))
    assert metrics.keys() == expected.keys()
    for name, metric in expected.items():  # one device there, two here
        np.testing.assert_allclose(metrics[name]["value"], metric.value, rtol=1e-4, err_msg=name)


def test_report_mentions_every_metric_and_its_pictures_open(evaluated):
    workdir, _ = evaluated
    report = (workdir / "eval" / "report.md").read_text()
    for name in json.loads((workdir / "eval" / "metrics.json").read_text()):
        assert f"| `{name}` |" in report
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", report)
    assert len(pictures) == 6
    for picture in pictures:
        pixels = np.asarray(Image.open(workdir / "eval" / picture))
        assert len(np.unique(pixels)) > 10, picture


def test_report_carries_the_configuration(evaluated):
    workdir, _ = evaluated
    report = (workdir / "eval" / "report.md").read_text()
    for key, value in configuration.flatten(configuration.load(workdir)).items():
        assert f"\n{key} = {value}\n" in report


def test_console_names_every_metric_and_every_file(evaluated, vae):
    workdir, completed = evaluated
    first = completed.stdout.strip().splitlines()[0]
    assert str(workdir) in first and "test split" in first and f"step {vae.step}" in first
    for name in json.loads((workdir / "eval" / "metrics.json").read_text()):
        assert re.search(rf"^  {name} +\S", completed.stdout, re.MULTILINE)
    for path in [workdir / "eval" / "report.md", *(workdir / "eval" / "images").iterdir()]:
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
    completed = run_python(
        "evaluate.py",
        f"--workdir={copied_workdir}",
        "--split=validation",
        "--checkpoint=20",
        f"--data_dir={moved}",
        "--num_iw_images=0",
    )
    assert completed.returncode == 0, completed.stderr
    assert not (copied_workdir / "eval").exists()
    metrics = json.loads((copied_workdir / "eval_validation" / "metrics.json").read_text())
    assert {m["split"] for m in metrics.values()} == {"validation"}
    assert {m["checkpoint_step"] for m in metrics.values()} == {20}
    assert {m["num_images"] for m in metrics.values()} == {NUM_VALIDATION}


# Errors of a user end with one line and exit code 1


def assert_one_line(completed, script: str, message: str) -> None:
    assert completed.returncode == 1
    lines = [line for line in completed.stderr.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 1 and lines[0].startswith(f"{script}: "), completed.stderr
    assert re.search(message, lines[0]), completed.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=7"], r"checkpoint '7' is not in .*: it holds the steps \[20, 24\]"),
        (["--checkpoint=newest"], "'newest'.*'best'.*'latest'"),
        (["--data_dir=/nonexistent"], "/nonexistent"),
        (["--num_iw_images=-3"], "num_iw_images = -3"),
    ],
    ids=["missing_step", "no_checkpoint_word", "no_data", "negative_count"],
)
def test_wrong_flags_of_evaluate(copied_workdir, flags, message):
    completed = run_python("evaluate.py", f"--workdir={copied_workdir}", *flags)
    assert_one_line(completed, "evaluate.py", message)
    assert not (copied_workdir / "eval").exists()


def test_evaluating_an_empty_directory(tmp_path):
    completed = run_python("evaluate.py", f"--workdir={tmp_path}")
    assert_one_line(completed, "evaluate.py", "is no training run: give the --workdir")
    assert list(tmp_path.iterdir()) == []


def test_training_in_the_workdir_of_another_configuration(copied_workdir, data_dir):
    completed = run_python(
        "train.py", f"--workdir={copied_workdir}", *config_flags(data_dir, kl__weight=2.0)
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("train.py: ") and "Traceback" not in completed.stderr
    assert "  kl.weight: 1.0 in the workdir, 2.0 now\n" in completed.stderr


def test_package_loads_the_evaluated_run(evaluated):
    assert vae_jax.load(evaluated[0], "latest").step == 24
