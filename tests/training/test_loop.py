"""Tests of vae_jax/training/loop.py and of the files that a run leaves behind.

Interruptions are real: train.py runs in processes of its own, and the evaluation at a chosen step
sends the process a signal, so that every run is interrupted at the same place.
"""

import concurrent.futures
import json
import logging
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from tests.conftest import (
    NUM_TRAIN,
    NUM_VALIDATION,
    TINY,
    config_flags,
    make_config,
    make_experiment,
    raise_sigterm_after,
    read_state,
    run_python,
)
from vae_jax import config as configuration
from vae_jax import data, evaluation, experiment, training
from vae_jax.checkpoints import Checkpoints
from vae_jax.errors import UserError
from vae_jax.experiment import TrainingPlan
from vae_jax.recording.writers import Summary, read_metrics
from vae_jax.runtime.presence import WorkdirLostError
from vae_jax.runtime.workdir import LOCK_FILE, lock_workdir
from vae_jax.tasks import VAETask
from vae_jax.training import TrainingDivergedError, steps
from vae_jax.training.watch import (
    check_final_elbo,
    check_finite,
    check_not_diverged,
    is_out_of_patience,
)

NUM_STEPS, EVAL_EVERY = TINY["train.num_steps"], TINY["train.eval_every_steps"]
CHECKPOINT_EVERY = TINY["train.checkpoint_every_steps"]


def evaluate_nothing(vae, split) -> Summary:
    return Summary({"elbo": -1.0, "rate": 0.0, "distortion": 1.0})


def snapshot(directory: pathlib.Path) -> dict[str, int]:
    """Returns every file and its modification time."""
    files = [p for p in directory.rglob("*") if p.is_file() and p.name != LOCK_FILE]
    return {str(p.relative_to(directory)): p.stat().st_mtime_ns for p in files}


# A run that is interrupted three times

# Runs train.py with an evaluation that first sends this process a signal, once, at a given step.
INTERRUPTED = """
import os, pathlib, runpy, sys, time
from vae_jax import evaluation
validate, step, number = evaluation.validate, int(sys.argv[1]), int(sys.argv[2])
checkpoints = pathlib.Path(sys.argv[3])

def interrupt(vae, split):
    if vae.step == step:
        while not any(p.name.isdigit() for p in checkpoints.glob("*")):  # written in the background
            time.sleep(0.01)
        os.kill(os.getpid(), number)
    return validate(vae, split)

evaluation.validate = interrupt
sys.argv = ["train.py", *sys.argv[4:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def interrupted(data_dir, tmp_path_factory):
    """The workdir of a run killed, terminated, interrupted and finished, and its four processes."""
    workdir = tmp_path_factory.mktemp("runs") / "interrupted"
    script, checkpoints = ["-c", INTERRUPTED], workdir / "checkpoints"
    command = [f"--workdir={workdir}", *config_flags(data_dir, train__diagnose=True)]
    completed: list[subprocess.CompletedProcess] = []
    for step, number in (
        (EVAL_EVERY, signal.SIGKILL),
        (EVAL_EVERY, signal.SIGTERM),
        (2 * EVAL_EVERY, signal.SIGINT),
        (-1, signal.SIGKILL),  # at no step
    ):
        completed.append(run_python(*script, step, int(number), checkpoints, *command))
    return workdir, completed


def test_exit_codes_give_the_signal(interrupted):
    _, completed = interrupted
    codes = [c.returncode for c in completed]
    assert codes == [-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT, 0], [
        c.stderr for c in completed
    ]


def test_log_says_where_a_run_stops_and_where_it_resumes(interrupted):
    _, (killed, terminated, stopped, finished) = interrupted
    assert "Resuming" not in killed.stderr
    # The state is saved before it is evaluated, and the signal ends the evaluation at once.
    assert f"Resuming from step {EVAL_EVERY}." in terminated.stderr
    for process_, name, step in (
        (terminated, "SIGTERM", EVAL_EVERY),
        (stopped, "SIGINT", 2 * EVAL_EVERY),
    ):
        assert f"Stopped by {name} at step {step}; the same command resumes" in process_.stderr
        assert "Traceback" not in process_.stderr
    assert f"Resuming from step {EVAL_EVERY}." in stopped.stderr
    assert f"Resuming from step {2 * EVAL_EVERY}." in finished.stderr


def test_interruptions_change_no_bit_of_the_final_state(interrupted, trained_workdir):
    state, expected = read_state(interrupted[0]), read_state(trained_workdir)
    assert int(state.step) == NUM_STEPS
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_interruptions_leave_the_same_records_in_the_metrics(interrupted, trained_workdir):
    records, expected = (
        [{k: v for k, v in r.items() if k != "train/images_per_second"} for r in read_metrics(path)]
        for path in (interrupted[0], trained_workdir)
    )
    assert records == expected


def test_same_checkpoints_are_kept_after_interruptions(interrupted, trained_workdir):
    def kept(path):
        with Checkpoints(path) as checkpoints:
            return checkpoints.steps()

    assert NUM_STEPS in kept(trained_workdir)
    assert kept(interrupted[0]) == kept(trained_workdir)


def test_missing_tensorflow_is_logged_once(interrupted):
    for completed in interrupted[1]:
        assert completed.stderr.count("TensorBoard summaries are off") == 1
    assert not (interrupted[0] / "tensorboard").exists()


# The workdir of a run


def test_training_lowers_the_loss(trained_workdir):
    records = read_metrics(trained_workdir)
    elbos = [r["train/elbo"] for r in records if "train/elbo" in r]
    assert np.mean(elbos[-4:]) > np.mean(elbos[:4])
    validation = [r["validation/elbo"] for r in records if "validation/elbo" in r]
    assert validation[-1] > validation[0]


def test_metrics_file_has_every_log_and_every_evaluation(trained_workdir):
    records = read_metrics(trained_workdir)
    train = [r for r in records if "train/loss" in r]
    validation = [r for r in records if "validation/elbo" in r]
    assert [r["step"] for r in train] == list(range(1, NUM_STEPS + 1))
    assert [r["step"] for r in validation] == list(range(EVAL_EVERY, NUM_STEPS + 1, EVAL_EVERY))
    names = "loss elbo rate distortion kl_weight learning_rate grad_norm grad_norm_max update_norm "
    names += "param_norm skipped_updates skipped_in_a_row bits_per_dim"
    for record in train:
        assert record.keys() >= {f"train/{name}" for name in names.split()}
        elbo = record["train/elbo"]
        np.testing.assert_allclose(
            elbo, -(record["train/distortion"] + record["train/rate"]), rtol=1e-5
        )
        np.testing.assert_allclose(
            record["train/bits_per_dim"], -elbo / (16 * 16 * np.log(2.0)), rtol=1e-6
        )
    for record in validation:
        np.testing.assert_allclose(
            record["validation/elbo"],
            -(record["validation/distortion"] + record["validation/rate"]),
            rtol=1e-6,
        )


def test_logged_schedules_are_those_of_the_update(trained_workdir):
    """Record `step` is of the update with this number, from 1 on; its schedules see step - 1."""
    for record in read_metrics(trained_workdir):
        if "train/loss" not in record:
            continue
        before = record["step"] - 1
        kl_weight = min(before / TINY["kl.warmup_steps"], 1.0)
        np.testing.assert_allclose(record["train/kl_weight"], kl_weight, rtol=1e-6)
        warmup = min((before + 1) / 2, 1.0)
        t = max(before - 2, 0) / (NUM_STEPS - 2)
        rate = TINY["optim.learning_rate"] * warmup * 0.5 * (1 + np.cos(np.pi * t))
        np.testing.assert_allclose(record["train/learning_rate"], rate, rtol=1e-5)


def test_config_file_records_what_made_the_run(trained_workdir, data_dir):
    content = json.loads((trained_workdir / "config.json").read_text())
    config = make_config(data_dir, train__diagnose=True)
    assert configuration.load(trained_workdir).to_dict() == config.to_dict()
    assert content["image_shape"] == [16, 16, 1]
    provenance = content["provenance"]
    # Null if the code is not a git checkout.
    assert provenance["git_commit"] is None or re.fullmatch(
        "[0-9a-f]{40}", provenance["git_commit"]
    )
    assert provenance["versions"]["jax"] == jax.__version__
    assert provenance["versions"].keys() >= {"jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert provenance["devices"] == ["cpu"]


def test_parameter_table_counts_every_parameter(trained_workdir):
    params = read_state(trained_workdir).params
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    table = (trained_workdir / "parameters.md").read_text()
    assert f"| total | {total:,} | |" in table


def test_curves_and_images_are_written_at_every_evaluation(trained_workdir):
    names = {path.name for path in (trained_workdir / "images").iterdir()}
    assert names == {
        f"{kind}_{step:08d}.png"
        for kind in ("reconstructions", "samples")
        for step in range(EVAL_EVERY, NUM_STEPS + 1, EVAL_EVERY)
    }
    for path in [*(trained_workdir / "images").iterdir(), trained_workdir / "curves.png"]:
        pixels = np.asarray(Image.open(path))
        assert len(np.unique(pixels)) > 10


# A run in this process


@pytest.fixture
def data_dir_without_test(data_dir, tmp_path) -> pathlib.Path:
    """The same dataset, but opening the test images fails."""
    copy = shutil.copytree(data_dir, tmp_path / "data")
    (copy / "tiny" / "test_images.npy").write_bytes(b"not an array")
    return copy


def test_run_compiles_each_function_once_and_never_opens_the_test_split(
    data_dir_without_test, tmp_path, monkeypatch, caplog
):
    jitted, vaes = [], []
    jit_train_steps = steps.jit_train_steps

    def record_jitted(*args):
        jitted.append(jit_train_steps(*args))
        return jitted[-1]

    def record_vae(vae, split):
        vaes.append(vae)
        assert (split.name, len(split)) == ("validation", NUM_VALIDATION)
        assert len(split) % vae.batch_size != 0  # the last batch is padded
        return evaluation.validate(vae, split)

    monkeypatch.setattr(steps, "jit_train_steps", record_jitted)
    config = make_config(data_dir_without_test, data__resident=False)
    with caplog.at_level(logging.INFO, "vae_jax"):
        assert training.train_and_evaluate(config, tmp_path / "run", record_vae) is None
    assert [train_steps._cache_size() for train_steps in jitted] == [1]
    assert [vae.step for vae in vaes] == [8, 16, 24]
    assert len({id(vae._steps) for vae in vaes}) == 1
    for name in ("elbo_terms", "encode", "decode_mean"):
        assert getattr(vaes[0]._steps, name)._cache_size() == 1, name
    text = " ".join(record.getMessage() for record in caplog.records)
    assert text.count("TensorBoard summaries are off") == 1


def test_trained_run_returns_at_once_and_touches_no_file(copied_workdir, data_dir):
    before = snapshot(copied_workdir)

    def fail(vae, split):
        raise AssertionError("evaluated")

    assert training.train_and_evaluate(make_config(data_dir), copied_workdir, fail) is None
    assert snapshot(copied_workdir) == before


def test_run_whose_checkpoints_are_gone_is_not_started_again(copied_workdir, data_dir):
    """They may be on a volume that is not mounted."""
    (copied_workdir / "checkpoints").rename(copied_workdir.parent / "archive")
    before = snapshot(copied_workdir)
    with pytest.raises(UserError, match="to step 24, but no checkpoints/: put that directory back"):
        training.train_and_evaluate(make_config(data_dir), copied_workdir, evaluate_nothing)
    assert snapshot(copied_workdir) == before


def test_start_removes_the_temporary_files_of_killed_processes(copied_workdir, data_dir):
    left = copied_workdir / "images" / ".samples_00000008.png.4711.tmp"
    left.touch()
    os.utime(left, (0, 0))
    training.train_and_evaluate(make_config(data_dir), copied_workdir, evaluate_nothing)
    assert not left.exists()


def test_signal_during_the_last_step_does_not_lose_the_last_evaluation(
    data_dir, tmp_path, monkeypatch
):
    """It happens before the stop, or the same command catches up on it."""
    config = make_config(data_dir, train__num_steps=2, train__eval_every_steps=2)
    raise_sigterm_after(monkeypatch, step=2)
    workdir = tmp_path / "run"
    training.train_and_evaluate(config, workdir, evaluate_nothing)
    training.train_and_evaluate(config, workdir, evaluate_nothing)
    assert [r["step"] for r in read_metrics(workdir) if "validation/elbo" in r] == [2]


def test_run_resumed_between_the_steps_of_a_call_still_reaches_the_end(
    data_dir, tmp_path, monkeypatch
):
    """As if a run stopped on a CPU with one step per call and continued with four per call."""
    config = make_config(data_dir)
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        raise_sigterm_after(patch, step=6)
        assert training.train_and_evaluate(config, workdir, evaluate_nothing) == signal.SIGTERM
    assert int(read_state(workdir).step) == 6
    monkeypatch.setattr(TrainingPlan, "steps_in_call", lambda plan: 4)
    assert training.train_and_evaluate(config, workdir, evaluate_nothing) is None
    assert int(read_state(workdir).step) == NUM_STEPS
    evaluated = [r["step"] for r in read_metrics(workdir) if "validation/elbo" in r]
    assert evaluated == list(range(EVAL_EVERY, NUM_STEPS + 1, EVAL_EVERY))


def test_kl_weight_of_a_constant_schedule_is_full_from_the_start():
    run = make_experiment(kl__schedule="constant", kl__warmup_steps=EVAL_EVERY + 1)
    assert run.training.kl_warmup_end == 0
    assert make_experiment(kl__warmup_steps=9).training.kl_warmup_end == 9


def test_best_checkpoint_is_one_of_full_kl_weight(data_dir, tmp_path):
    def evaluate_worse_each_time(vae, split) -> Summary:
        return Summary({"elbo": -float(vae.step)})

    config = make_config(data_dir, kl__warmup_steps=EVAL_EVERY + 1)
    training.train_and_evaluate(config, tmp_path, evaluate_worse_each_time)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 2 * EVAL_EVERY


def test_start_without_a_checkpoint_does_not_bind_the_workdir(data_dir, tmp_path):
    rare = {"train__eval_every_steps": NUM_STEPS, "train__checkpoint_every_steps": NUM_STEPS}
    diverging = {"optim__learning_rate": 1e20, "optim__max_skipped_in_a_row": 3}
    with pytest.raises(TrainingDivergedError):
        training.train_and_evaluate(
            make_config(data_dir, **rare, **diverging), tmp_path, evaluate_nothing
        )
    config = make_config(data_dir, **rare)
    assert training.train_and_evaluate(config, tmp_path, evaluate_nothing) is None
    assert configuration.load(tmp_path).optim.learning_rate == config.optim.learning_rate
    assert read_metrics(tmp_path)[0]["step"] == 1


# Faults around an evaluation


class OutOfMemoryError(MemoryError):
    """As XLA reports it, in an evaluation whose batch is larger than that of training."""


def fail_at(step: int, fault):
    """Returns an evaluation that calls `fault` at one step."""

    def evaluate(vae, split) -> Summary:
        if vae.step == step:
            fault()
        return evaluate_nothing(vae, split)

    return evaluate


def test_crash_in_an_evaluation_loses_no_step_and_the_evaluation_is_done_again(data_dir, tmp_path):
    def run_out_of_memory():
        raise OutOfMemoryError

    crashing = fail_at(EVAL_EVERY, run_out_of_memory)
    with pytest.raises(OutOfMemoryError):
        training.train_and_evaluate(make_config(data_dir), tmp_path / "run", crashing)
    assert int(read_state(tmp_path / "run").step) == EVAL_EVERY
    config = make_config(data_dir, eval__batch_size=2, train__num_steps=2 * EVAL_EVERY)
    with pytest.raises(ValueError, match="train.num_steps = 16 is less than the 24 steps"):
        training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    config = make_config(data_dir, eval__batch_size=2)
    training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    evaluated = [r["step"] for r in read_metrics(tmp_path / "run") if "validation/elbo" in r]
    assert evaluated == list(range(EVAL_EVERY, NUM_STEPS + 1, EVAL_EVERY))
    (entry,) = json.loads((tmp_path / "run" / "config.json").read_text())["history"]
    assert entry["step"] == EVAL_EVERY and entry["changed"] == {"eval.batch_size": [8, 2]}
    # The last evaluation may be what is missing.
    last = tmp_path / "run" / "checkpoints" / str(NUM_STEPS)
    (last / "evaluation.json").unlink()
    called = []
    training.train_and_evaluate(
        config, tmp_path / "run", fail_at(NUM_STEPS, lambda: called.append(1))
    )
    assert called == [1] and (last / "evaluation.json").exists()


def test_signal_in_an_evaluation_ends_it_at_once(data_dir, tmp_path):
    reached = []

    def interrupt():
        signal.raise_signal(signal.SIGUSR1)
        reached.append("the end of the evaluation")

    interrupted = fail_at(EVAL_EVERY, interrupt)
    stopped = training.train_and_evaluate(make_config(data_dir), tmp_path, interrupted)
    assert stopped == signal.SIGUSR1 and not reached
    assert int(read_state(tmp_path).step) == EVAL_EVERY


def test_images_that_change_during_training_end_it(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    path = tmp_path / "data" / "tiny" / "train_images.npy"
    changing = fail_at(EVAL_EVERY, lambda: np.save(path, np.load(path)[::-1]))
    with pytest.raises(data.ImagesChangedError, match=f"{path} changed while the run was using"):
        training.train_and_evaluate(make_config(tmp_path / "data"), tmp_path / "run", changing)
    assert int(read_state(tmp_path / "run").step) == 2 * EVAL_EVERY


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda path: path.rename(f"{path}_moved")])
def test_workdir_that_disappears_ends_the_training(data_dir, tmp_path, lose):
    workdir = tmp_path / "run"
    with pytest.raises(WorkdirLostError, match=f"{workdir} was moved or removed"):
        training.train_and_evaluate(
            make_config(data_dir), workdir, fail_at(EVAL_EVERY, lambda: lose(workdir))
        )
    assert not (workdir / "checkpoints").exists()


def test_training_in_another_thread_leaves_signals_alone(data_dir, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        config = make_config(data_dir)
        ended = pool.submit(training.train_and_evaluate, config, tmp_path, evaluate_nothing)
        assert ended.result() is None
    assert int(read_state(tmp_path).step) == NUM_STEPS
    assert signal.getsignal(signal.SIGTERM) is handler


# Early stopping


@pytest.mark.parametrize(
    ("elbos", "patience", "expected"),
    [
        ([-3.0, -4.0, -5.0], 0, False),
        ([], 1, False),
        ([-3.0], 1, False),
        ([-3.0, -4.0], 1, True),
        ([-3.0, -3.0], 1, True),  # an equal one is not better
        ([-3.0, -4.0], 2, False),
        ([-3.0, -4.0, -2.0], 2, False),
        ([-3.0, -2.0, -4.0, -3.0], 2, True),
        ([-3.0, float("nan")], 1, True),
        ([float("nan"), -3.0], 1, False),
    ],
)
def test_patience_counts_evaluations_without_a_better_elbo(elbos, patience, expected):
    assert is_out_of_patience(elbos, patience) is expected


# The KL weight is full from step 10 on: earlier evaluations do not count.
ELBOS = {4: 50.0, 8: 60.0, 12: -3.0, 16: -2.0, 20: -2.5, 24: -2.1}


def evaluate_as_planned(vae, split) -> Summary:
    return Summary({"elbo": ELBOS[vae.step], "rate": 0.0, "distortion": -ELBOS[vae.step]})


def test_run_ends_where_validation_no_longer_improves(data_dir, tmp_path, monkeypatch, caplog):
    """Evaluations before a stop count as well."""
    config = make_config(
        data_dir,
        train__num_steps=32,
        train__eval_every_steps=4,
        train__patience=2,
    )
    with monkeypatch.context() as patch:
        raise_sigterm_after(patch, step=21)
        stopped = training.train_and_evaluate(config, tmp_path / "run", evaluate_as_planned)
    assert stopped == signal.SIGTERM
    assert training.train_and_evaluate(config, tmp_path / "run", evaluate_as_planned) is None
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert max(checkpoints.steps()) == 24
        assert checkpoints.best_step() == 16
    before = snapshot(tmp_path / "run")
    with caplog.at_level(logging.INFO, "vae_jax"):
        assert training.train_and_evaluate(config, tmp_path / "run", evaluate_as_planned) is None
    assert snapshot(tmp_path / "run") == before
    assert "It stopped before step 32, because its validation ELBO did not rise" in caplog.text


def test_negative_patience_is_refused(data_dir):
    with pytest.raises(ValueError, match="train.patience = -1 must be an integer from 0"):
        experiment.validate(make_config(data_dir, train__patience=-1))


# A prior learned with the VAE; one on a frozen VAE is in test_frozen_vae.py


@pytest.mark.parametrize(
    "name",
    ["vamp", *(pytest.param(n, marks=pytest.mark.long) for n in ("mixture", "flow", "diffusion"))],
)
def test_joint_training_moves_every_parameter_of_model_and_prior(
    data_dir, tmp_path, monkeypatch, name
):
    starts, validated, start_task = [], [], VAETask.start

    def record_start(*args):
        params = start_task(*args)
        starts.append(jax.device_get(params))
        return params

    def validate(vae, split):
        validated.append(vae)
        return evaluate_nothing(vae, split)

    monkeypatch.setattr(VAETask, "start", record_start)
    num_steps = 6
    config = make_config(
        data_dir,
        prior__name=name,
        prior__num_components=3,
        prior__num_couplings=2,
        prior__widths=(8,),
        prior__num_blocks=1,
        train__num_steps=num_steps,
        train__eval_every_steps=num_steps,
        train__checkpoint_every_steps=num_steps,
    )
    assert training.train_and_evaluate(config, tmp_path, validate) is None
    records = [r for r in read_metrics(tmp_path) if "train/loss" in r]
    assert len(records) == num_steps
    for record in records:
        assert np.isfinite(record["train/loss"]) and record["train/skipped_updates"] == 0
        total = record["train/distortion"] + record["train/rate"]
        np.testing.assert_allclose(record["train/elbo"], -total, rtol=1e-5)
    (start,) = starts
    state = jax.device_get(read_state(tmp_path))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, start)
    if name == "vamp":
        assert set(changed["prior"]) == {"pseudo_inputs"}
    else:  # a standardisation is set at most once, and not here
        assert not changed["prior"].pop("mean") and not changed["prior"].pop("std")
        np.testing.assert_array_equal(state.params["prior"]["mean"], 0.0)
        np.testing.assert_array_equal(state.params["prior"]["std"], 1.0)
    assert all(jax.tree.leaves(changed)), changed
    # Validation used the averages of all parameters.
    (vae,) = validated
    assert set(vae.params) == {"encoder", "decoder", "prior"}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(vae.params), state.ema_params)


# Refusals


def test_workdir_of_another_configuration_is_refused_naming_the_key(copied_workdir, data_dir):
    before = snapshot(copied_workdir)
    config = make_config(data_dir, kl__weight=2.0)
    with pytest.raises(ValueError, match=r"kl\.weight: 1.0 in the workdir, 2.0 now"):
        training.train_and_evaluate(config, copied_workdir, evaluate_nothing)
    assert snapshot(copied_workdir) == before


def test_second_trainer_in_a_workdir_is_refused(copied_workdir, data_dir):
    with (
        lock_workdir(copied_workdir),
        pytest.raises(RuntimeError, match=f"Another process trains in {copied_workdir}"),
    ):
        training.train_and_evaluate(make_config(data_dir), copied_workdir, evaluate_nothing)
    with lock_workdir(copied_workdir):
        pass  # the refused trainer has released the lock


def test_invalid_configuration_makes_no_workdir(data_dir, tmp_path):
    config = make_config(data_dir, kl__schedule="step")
    with pytest.raises(ValueError, match=r"kl\.schedule"):
        training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    assert not (tmp_path / "run").exists()


def test_batch_that_does_not_divide_among_devices_is_refused(data_dir, tmp_path):
    config = make_config(data_dir, train__batch_size=7)
    with pytest.raises(ValueError, match=r"train.batch_size = 7 must be a positive multiple"):
        training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    assert not (tmp_path / "run" / "config.json").exists()


def test_dataset_of_another_shape_is_refused_and_the_checkpoints_stay(copied_workdir, tmp_path):
    """`data.dir` may change, the images may not."""
    (tmp_path / "tiny").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 1), dtype=np.uint8)
    for split in ("train", "test"):
        np.save(tmp_path / "tiny" / f"{split}_images.npy", images)
    before = snapshot(copied_workdir / "checkpoints")
    with pytest.raises(ValueError, match=r"\(32, 32, 1\).*\(16, 16, 1\)|\(16, 16, 1\).*\(32, 32"):
        training.train_and_evaluate(make_config(tmp_path), copied_workdir, evaluate_nothing)
    assert snapshot(copied_workdir / "checkpoints") == before


# Divergence


def make_window(skipped_in_a_row, **terms) -> dict[str, np.ndarray]:
    finite = {name: np.ones(len(skipped_in_a_row)) for name in ("loss", "grad_norm")}
    finite |= {name: np.ones(len(skipped_in_a_row)) for name in ("distortion", "rate")}
    return {**finite, **terms, "skipped_in_a_row": np.asarray(skipped_in_a_row, np.float32)}


@pytest.mark.parametrize("skipped", [[], [0, 0, 0], [0, 1, 2], [2, 0, 1, 2, 0]])
def test_fewer_skipped_updates_than_the_limit_are_no_divergence(skipped):
    check_not_diverged(make_window(skipped), last_step=10, limit=3)


@pytest.mark.parametrize(
    ("skipped", "last_step", "steps_named"),
    [
        ([0, 1, 2, 3], 10, "Steps 8 to 10"),
        ([1, 2, 3, 0, 1], 10, "Steps 6 to 8"),
        ([3], 10, "Steps 8 to 10"),  # began in the window before
        ([0, 1, 2, 3, 4, 5], 10, "Steps 6 to 8"),
    ],
)
def test_divergence_names_its_steps(skipped, last_step, steps_named):
    with pytest.raises(TrainingDivergedError, match=f"{steps_named}: 3 updates in a row"):
        check_not_diverged(make_window(skipped), last_step, limit=3)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (("distortion", "loss", "grad_norm"), "distortion"),
        (("rate", "loss", "grad_norm"), "rate"),
        (("loss", "grad_norm"), "loss"),
        (("grad_norm",), "grad_norm"),
        ((), "gradient"),
    ],
)
def test_divergence_names_the_first_term_that_is_not_finite(bad, named):
    window = make_window([1, 2, 3], **{name: np.full(3, np.nan) for name in bad})
    with pytest.raises(TrainingDivergedError, match=f"non-finite term is the {named}\\."):
        check_not_diverged(window, last_step=3, limit=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_state_with_a_parameter_that_is_not_finite_is_not_saved(trained_workdir, value):
    state = read_state(trained_workdir)
    check_finite(state)
    bad = state.replace(params={**state.params, "other": {"bias": np.float32([0.0, value])}})
    message = f"Step {NUM_STEPS}: 1 arrays of parameters are not finite, the first is ['other']"
    with pytest.raises(TrainingDivergedError, match=re.escape(message)):
        check_finite(bad)


def test_run_whose_last_elbo_is_not_finite_ends_with_an_error(data_dir, tmp_path):
    for elbo in (math.inf, -math.inf):
        with pytest.raises(TrainingDivergedError, match=f"ended with a validation ELBO of {elbo}"):
            check_final_elbo(elbo)
    config = make_config(data_dir)
    with pytest.raises(TrainingDivergedError, match="ended with a validation ELBO of nan"):
        training.train_and_evaluate(config, tmp_path, lambda *_: Summary({"elbo": math.nan}))
    assert NUM_STEPS in Checkpoints(tmp_path).steps()


def test_run_that_diverges_ends_with_steps_term_and_remedy(data_dir, tmp_path):
    config = make_config(
        data_dir,
        optim__learning_rate=1e20,
        optim__warmup_steps=0,
        optim__max_skipped_in_a_row=3,
        train__checkpoint_every_steps=1,
        train__keep_checkpoints=9,
    )
    with pytest.raises(TrainingDivergedError, match=r"3 updates in a row") as caught:
        training.train_and_evaluate(config, tmp_path / "run", evaluate_nothing)
    # The first update makes the parameters as large as the learning rate; what follows overflows.
    assert "Steps 2 to 4" in str(caught.value) and "optim.learning_rate" in str(caught.value)
    assert any(f"is the {term}." in str(caught.value) for term in ("distortion", "rate"))
    records = read_metrics(tmp_path / "run")
    assert [r["train/skipped_in_a_row"] for r in records] == [0, 1, 2, 3]
    assert not np.isfinite(records[-1]["train/loss"])
    saved = read_state(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params))


def test_epoch_of_the_tiny_run_is_shorter_than_the_run():
    """The tests above rely on interruptions in different epochs."""
    assert NUM_STEPS * TINY["train.batch_size"] > 2 * NUM_TRAIN
