"""Tests of tests/processes.py."""

import pathlib
import subprocess
import sys
import time

import pytest

from tests import processes


def test_outcome_of_a_process():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = processes.start(["sh", "-c", "echo out; echo error >&2; exit 3"], **pipes)
    completed = processes.finish(process)
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "error\n")


def test_process_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0)
    process = processes.start(["sleep", "1000"])
    with pytest.raises(processes.StuckError, match="after 0 s of CPU time"):
        processes.finish(process)
    assert process.returncode is not None


def test_process_that_runs_in_a_circle_is_given_up():
    process = processes.start([sys.executable, "-c", "while True: pass"])
    with pytest.raises(processes.StuckError):
        processes.finish(process, cpu_seconds=0.1)


def test_children_of_a_process_end_with_it():
    command = ["sh", "-c", "sleep 1000 & echo $!; wait"]
    process = processes.start(command, stdout=subprocess.PIPE, text=True)
    stat = pathlib.Path(f"/proc/{int(process.stdout.readline())}/stat")
    assert stat.exists()
    processes.end_all()
    while stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
