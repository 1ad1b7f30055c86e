"""Tests of vae_jax/studies/engine.py with runs that only write what they do to a file."""

import json
import math
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from vae_jax.runtime.workdir import lock_workdir
from vae_jax.studies import engine
from vae_jax.studies.engine import Run

LABELS = ("a", "b", "c")


def make_runs(workdir, work=lambda label: {"label": label}) -> list[Run]:
    """Returns runs that note their label and their process in calls.txt."""

    def noting(label):
        with (workdir / "calls.txt").open("a") as file:
            file.write(f"{label} {os.getpid()}\n")
        return work(label)

    return [Run(workdir / label, label, lambda label=label: noting(label)) for label in LABELS]


def calls(workdir) -> list[list[str]]:
    """Returns [label, process] of each start of a run."""
    path = workdir / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def labels_of(workdir) -> list[str]:
    return [label for label, _ in calls(workdir)]


@pytest.fixture
def tables(monkeypatch):
    """Has no waiting time; returns the labels of each table."""
    monkeypatch.setattr(engine, "WAITING_SECONDS", 0.01)
    return []


def test_runs_are_done_in_order_with_a_table_after_each(tmp_path, tables):
    runs = make_runs(tmp_path)
    assert engine.run_all(runs, lambda results: tables.append(list(results))) is None
    assert labels_of(tmp_path) == list(LABELS)
    assert tables == [["a"], ["a", "b"], ["a", "b", "c"]]
    assert [run.result() for run in runs] == [{"label": label} for label in LABELS]


def test_finished_runs_are_not_repeated(tmp_path, tables):
    engine.run_all(make_runs(tmp_path)[1:2], lambda results: None)
    engine.run_all(make_runs(tmp_path), lambda results: tables.append(list(results)))
    assert labels_of(tmp_path) == ["b", "a", "c"]
    assert tables == [["b"], ["a", "b"], ["a", "b", "c"]]
    engine.run_all(make_runs(tmp_path), lambda results: tables.append(list(results)))
    assert len(calls(tmp_path)) == 3 and tables[3:] == [["a", "b", "c"]]


def test_a_signal_stops_the_study_and_its_run_is_continued(tmp_path, tables):
    stopping = make_runs(tmp_path, lambda label: signal.SIGTERM if label == "b" else [label])
    assert engine.run_all(stopping, lambda results: tables.append(list(results))) == signal.SIGTERM
    assert labels_of(tmp_path) == ["a", "b"] and tables == [["a"]]
    assert engine.run_all(make_runs(tmp_path), lambda results: None) is None
    assert labels_of(tmp_path) == ["a", "b", "b", "c"]


def test_a_failed_run_has_no_result_and_frees_its_claim(tmp_path):
    def fail(label):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        engine.run_all(make_runs(tmp_path, fail), lambda results: None)
    (run, *_) = make_runs(tmp_path)
    assert run.result() is None and run.finish() is None
    assert run.result() == {"label": "a"}


def test_a_run_whose_directory_is_locked_is_waited_for(tmp_path, tables, monkeypatch):
    """Training locks the directory itself; train.py may have been started there by hand."""
    locks = []

    def train(label):
        with lock_workdir(tmp_path / label):
            return [label]

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(engine.time, "sleep", lambda _: locks.pop().__exit__(None, None, None))
    locks.append(lock_workdir(tmp_path / "a"))
    locks[0].__enter__()
    engine.run_all(make_runs(tmp_path, train), lambda results: tables.append(list(results)))
    assert labels_of(tmp_path) == ["a", "b", "c", "a"]
    assert tables == [["b"], ["b", "c"], ["a", "b", "c"]]


@pytest.fixture
def start(tmp_path):
    """Starts a process that shares the runs; it forks, so that it need not import anything."""
    started = []

    def start(work) -> multiprocessing.Process:
        runs = make_runs(tmp_path, work)
        context = multiprocessing.get_context("fork")
        started.append(context.Process(target=engine.run_all, args=(runs, lambda results: None)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.filterwarnings("ignore:.*fork")
def test_processes_share_the_runs_and_all_wait_for_the_last(tmp_path, tables, start):
    def wait_for_the_other(label):
        """The first two runs end only when both have begun, so that each process has one."""
        while len(calls(tmp_path)) < 2:
            time.sleep(0.01)
        return [label]

    other = start(wait_for_the_other)
    runs = make_runs(tmp_path, wait_for_the_other)
    assert engine.run_all(runs, lambda results: tables.append(list(results))) is None
    assert all(run.result() == [run.label] for run in runs) and tables[-1] == list(LABELS)
    other.join()
    assert other.exitcode == 0
    assert sorted(labels_of(tmp_path)) == list(LABELS)
    assert len({process for _, process in calls(tmp_path)}) == 2


@pytest.mark.filterwarnings("ignore:.*fork")
def test_the_run_of_a_killed_process_is_taken_over(tmp_path, tables, start):
    other = start(lambda label: threading.Event().wait())
    while not calls(tmp_path):
        assert other.is_alive()
        time.sleep(0.01)

    def kill_at_the_end(label):
        if label == "c":
            other.kill()
            other.join()
        return [label]

    runs = make_runs(tmp_path, kill_at_the_end)
    assert engine.run_all(runs, lambda results: tables.append(list(results))) is None
    assert labels_of(tmp_path) == ["a", "b", "c", "a"]
    assert tables == [["b"], ["b", "c"], ["a", "b", "c"]]


def test_result_with_numbers_that_are_not_finite_is_given_back(tmp_path):
    (run, *_) = make_runs(tmp_path, lambda label: {"elbo": -math.inf, "rates": [1.0, math.nan]})
    run.finish()
    text = (run.directory / engine.RESULT_FILE).read_text()
    json.loads(text, parse_constant=pytest.fail)
    np.testing.assert_equal(run.result(), {"elbo": -math.inf, "rates": [1.0, math.nan]})


def test_a_result_that_json_cannot_hold_is_not_stored(tmp_path):
    (run, *_) = make_runs(tmp_path, lambda label: {label: object()})
    with pytest.raises(TypeError):
        run.finish()
    assert run.result() is None
    assert not list(run.directory.glob("*.json"))


@pytest.mark.parametrize(
    ("values", "text"), [([], ""), ([1.25], "1.2"), ([1.0, 2.0, 6.0], "3.0 ± 2.6")]
)
def test_mean_and_deviation(values, text):
    assert engine.mean_and_deviation(values, 1) == text
