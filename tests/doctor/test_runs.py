"""Tests of the doctor on runs: `python -m vae_jax.doctor`, and the diagnosis after training."""

import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, make_config, run_python
from vae_jax import doctor, training
from vae_jax.doctor import __main__ as command
from vae_jax.doctor import diagnosis
from vae_jax.errors import NotFoundError
from vae_jax.recording.writers import METRICS_FILE, Summary, read_metrics
from vae_jax.training import TrainingDivergedError, watch

EVALUATED = range(
    TINY["train.eval_every_steps"], TINY["train.num_steps"] + 1, TINY["train.eval_every_steps"]
)


# A workdir


def read_severities(workdir: pathlib.Path) -> list[str]:
    text = (workdir / diagnosis.REPORT_FILE).read_text()
    return re.findall(r"^\*\*(\w+): \w+\.\*\*", text, re.MULTILINE)


def test_command_diagnoses_a_trained_workdir(copied_workdir):
    written = ("diagnosis.md", "diagnosis.png")
    for name in written:
        (copied_workdir / name).unlink()
    before = {p for p in copied_workdir.rglob("*") if p.is_file()}
    completed = run_python("-m", "vae_jax.doctor", f"--workdir={copied_workdir}")
    assert completed.returncode == int("severe" in read_severities(copied_workdir)), (
        completed.stderr
    )
    assert "Traceback" not in completed.stderr
    text = (copied_workdir / "diagnosis.md").read_text()
    assert text.startswith(f"# Diagnosis at step {TINY['train.num_steps']}\n")
    body = text.split("\n", 2)[2].partition("![")[0].strip()
    assert body and body in completed.stdout
    assert all(str(copied_workdir / name) in completed.stdout for name in written)
    after = {p for p in copied_workdir.rglob("*") if p.is_file()}
    assert after - before == {copied_workdir / name for name in written}


def test_command_outside_a_workdir_ends_with_one_line(tmp_path):
    completed = run_python("-m", "vae_jax.doctor", f"--workdir={tmp_path}")
    assert completed.returncode == 1
    (line,) = completed.stderr.strip().splitlines()
    assert line.startswith("vae_jax.doctor: ") and f"{tmp_path} is not a training run" in line
    assert list(tmp_path.iterdir()) == []


def run_command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vae_jax.doctor", *arguments])
    monkeypatch.setattr(command.process, "log_to_stderr", lambda: None)
    return command.main()


@pytest.fixture
def records_only(copied_workdir) -> pathlib.Path:
    """A workdir without checkpoints and with only the first three records."""
    shutil.rmtree(copied_workdir / "checkpoints")
    path = copied_workdir / METRICS_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    return copied_workdir


def test_workdir_without_checkpoints_is_diagnosed_by_its_records(records_only, monkeypatch, capsys):
    """Three healthy records give no finding and exit code 0; the fourth has skipped updates."""
    arguments = [f"--workdir={records_only}"]
    assert run_command(monkeypatch, *arguments) == 0
    assert "No problems were found." in capsys.readouterr().out
    record = {"step": 4, "train/skipped_updates": 9, "train/skipped_in_a_row": 9}
    with (records_only / METRICS_FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")
    assert run_command(monkeypatch, *arguments) == 1
    assert "**severe: non_finite_gradients.**" in capsys.readouterr().out
    assert (records_only / diagnosis.REPORT_FILE).read_text().startswith("# Diagnosis at step 4\n")
    assert not (records_only / "checkpoints").exists()


def test_what_was_not_examined_is_said(records_only, monkeypatch, caplog):
    """The directory of the run may begin with ~."""
    monkeypatch.setenv("HOME", str(records_only.parent))
    monkeypatch.setattr(logging.getLogger("vae_jax"), "propagate", True)
    assert doctor.diagnose_workdir("~/copied").step == 3
    assert "has no checkpoint: the model was not examined" in caplog.text
    (records_only / METRICS_FILE).unlink()
    with pytest.raises(NotFoundError, match="neither checkpoints nor records"):
        doctor.diagnose_workdir(records_only)


def test_diagnosis_replaces_no_file_of_the_user(records_only, tmp_path, monkeypatch):
    (tmp_path / diagnosis.REPORT_FILE).write_text("# My patient\n")
    arguments = [f"--workdir={records_only}", f"--output={tmp_path}"]
    with pytest.raises(SystemExit, match=r"diagnosis\.md there is not of a diagnosis"):
        run_command(monkeypatch, *arguments)
    assert (tmp_path / diagnosis.REPORT_FILE).read_text() == "# My patient\n"
    (tmp_path / diagnosis.REPORT_FILE).write_text(f"{diagnosis.TITLE}3\n")
    assert run_command(monkeypatch, *arguments) == 0


def test_place_of_a_diagnosis_is_checked_before_the_work(records_only, monkeypatch):
    monkeypatch.setattr(command, "diagnose_workdir", pytest.fail)
    with pytest.raises(SystemExit, match=r"config\.json: File exists"):
        run_command(
            monkeypatch, f"--workdir={records_only}", f"--output={records_only / 'config.json'}"
        )


def test_diagnosis_elsewhere_writes_nothing_to_the_workdir(records_only, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in records_only.rglob("*")}
    output = tmp_path / "new" / "place"
    arguments = [f"--workdir={records_only}", f"--output={output}"]
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith(str(records_only)))
    assert run_command(monkeypatch, *arguments) == 0
    assert {path.name for path in output.iterdir()} == {"diagnosis.md", "diagnosis.png"}
    assert {path: path.stat().st_mtime_ns for path in records_only.rglob("*")} == before
    with pytest.raises(SystemExit, match=f"{records_only}: Permission denied.* --output=DIR"):
        run_command(monkeypatch, f"--workdir={records_only}")


def test_images_of_all_splits_are_examined(records_only, data_dir, tmp_path, monkeypatch):
    """The test split is examined, too, and the dataset may have moved."""
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    train = np.load(moved / "tiny" / "train_images.npy")
    np.save(moved / "tiny" / "test_images.npy", train[:20])
    arguments = [f"--workdir={records_only}", f"--data_dir={moved}"]
    assert run_command(monkeypatch, *arguments) == 1
    text = (records_only / diagnosis.REPORT_FILE).read_text()
    assert "**severe: duplicated_images.**" in text and "20 images of test" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=7"], "checkpoint '7' is not in"),
        (["--data_dir=nowhere"], "tiny"),
    ],
)
def test_missing_inputs_are_named_in_one_line(copied_workdir, monkeypatch, arguments, message):
    with pytest.raises(SystemExit) as caught:
        run_command(monkeypatch, f"--workdir={copied_workdir}", *arguments)
    assert str(caught.value).startswith("vae_jax.doctor: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


# A training run


def evaluate_nothing(vae, split) -> Summary:
    return Summary({"elbo": -1.0, "rate": 0.0, "distortion": 1.0})


def test_trained_run_has_its_diagnosis(trained_workdir):
    text = (trained_workdir / diagnosis.REPORT_FILE).read_text()
    assert text.startswith(f"# Diagnosis at step {TINY['train.num_steps']}\n")
    assert len(np.unique(np.asarray(Image.open(trained_workdir / diagnosis.FIGURE_FILE)))) > 10
    evaluations = [r for r in read_metrics(trained_workdir) if "validation/diagnosis" in r]
    assert [r["step"] for r in evaluations] == list(EVALUATED)
    logged = [r["validation/diagnosis"] for r in evaluations]
    # The last text has the same findings as the file.
    names = re.findall(r"^\*\*(\w+: \w+)\.\*\*", text, re.MULTILINE)
    assert [": ".join(line.split(": ")[:2]) for line in logged[-1].splitlines()] == (
        names or ["no problems were found"]
    )


def test_run_without_diagnosis_has_none(data_dir, tmp_path):
    config = make_config(data_dir, train__num_steps=2)
    training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    records = read_metrics(tmp_path / "run")
    assert [r["step"] for r in records if "validation/elbo" in r] == [2]
    assert not any("validation/diagnosis" in r for r in records)
    assert not list((tmp_path / "run").glob("diagnosis.*"))


@pytest.mark.parametrize("log_every_steps", [1, 4])
def test_diagnosis_of_a_diverged_run_names_tensor_and_step(data_dir, tmp_path, log_every_steps):
    """The first update makes the parameters 1e20; then the features have no finite variance.

    Updates 2 to 4 are skipped. The finding is the same if they are logged together.
    """
    config = make_config(
        data_dir,
        optim__learning_rate=1e20,
        optim__warmup_steps=0,
        optim__max_skipped_in_a_row=3,
        train__log_every_steps=log_every_steps,
        train__diagnose=True,
    )
    workdir = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match="Steps 2 to 4"):
        training.train_and_evaluate(config, workdir, evaluate_nothing)
    texts = [r["train/non_finite"] for r in read_metrics(workdir) if "train/non_finite" in r]
    (named,) = texts  # located once
    assert re.fullmatch(r"output of encoder/\S+, step 2", named)
    assert math.isfinite(read_metrics(workdir)[0]["train/loss"]) == (log_every_steps == 1)
    text = (workdir / diagnosis.REPORT_FILE).read_text()
    assert "**severe: non_finite_gradients.**" in text
    assert (
        f"3 of 4 updates were skipped, up to 3 in a row; the first non-finite tensor: {named}."
        in (text)
    )
    assert (workdir / diagnosis.FIGURE_FILE).exists()


def test_defect_of_the_doctor_does_not_end_a_training(data_dir, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("planted")

    monkeypatch.setattr(watch.doctor, "diagnose", fail)
    config = make_config(data_dir, train__num_steps=2, train__diagnose=True)
    assert training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing) is None
    logged = [r["validation/diagnosis"] for r in read_metrics(tmp_path / "run") if len(r) == 2]
    assert logged == ["failed: MemoryError: planted"]
    config.train.diagnose = False  # may differ when the run is resumed
    config.lock()
    assert training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing) is None
