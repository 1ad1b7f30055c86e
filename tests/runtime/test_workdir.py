"""Tests of vae_jax/runtime/workdir.py and owner.py."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from vae_jax.errors import InputError
from vae_jax.runtime import owner, workdir
from vae_jax.runtime.workdir import (
    LOCK_FILE,
    OWNER_FILE,
    WorkdirBusyError,
    check_contents,
    lock_workdir,
)

# What a workdir that comes from somebody else may hold


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    """A directory like that of a run, inside another directory."""
    (tmp_path / "run" / "checkpoints" / "8").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "outside.txt").write_text("precious")
    return tmp_path / "run"


@pytest.mark.parametrize("is_relative", [True, False])
@pytest.mark.parametrize("name", ["config.json", LOCK_FILE, "checkpoints/8/inner"])
@pytest.mark.parametrize("target", ["outside.txt", "", "run2", "/etc", "/nowhere/at/all"])
def test_link_out_of_the_workdir_is_refused(run, tmp_path, name, target, is_relative):
    """'' is the parent of the workdir; 'run2' does not exist, and begins with its name."""
    link, path = run / name, tmp_path / target
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(path, link.parent) if is_relative else path)
    with pytest.raises(InputError, match="is a symbolic link") as caught:
        check_contents(run)
    assert str(link) in str(caught.value)


def test_links_in_a_circle_are_refused(run):
    (run / "a").symlink_to("b")
    (run / "b").symlink_to("a")
    with pytest.raises(InputError, match="is a symbolic link"):
        check_contents(run)


def make_socket(path: pathlib.Path) -> None:
    """The address of a socket is at most 107 bytes long, which a path may exceed."""
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_pipe_or_socket_is_refused(run, make):
    make(run / "checkpoints" / "metrics.jsonl")
    with pytest.raises(InputError, match=r"checkpoints/metrics\.jsonl is a pipe, a socket"):
        check_contents(run)


def test_links_within_the_workdir_and_to_it_are_allowed(run, tmp_path):
    (run / "latest").symlink_to("checkpoints/8")
    (run / "deleted").symlink_to("checkpoints/4")
    (run / "self").symlink_to(".")
    (tmp_path / "link").symlink_to(run)
    check_contents(run)
    check_contents(tmp_path / "link")


def test_name_of_a_refused_file_is_one_line(run):
    os.mkfifo(run / "a\nb")
    with pytest.raises(InputError, match=r"a\\nb is a pipe"):
        check_contents(run)


def test_files_that_vanish_meanwhile_are_no_error(run, monkeypatch):
    """Another process trains there, and orbax renames and deletes its directories."""
    scandir = os.scandir

    def scandir_and_remove(path):
        entries = scandir(path)
        if path == str(run):
            (run / "checkpoints" / "8").rmdir()
            (run / "checkpoints").rmdir()
        return entries

    monkeypatch.setattr(os, "scandir", scandir_and_remove)
    check_contents(run)


# The lock


@pytest.mark.parametrize("make", [os.mkfifo, make_socket, os.mkdir, lambda p: p.symlink_to("x")])
def test_lock_that_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / LOCK_FILE)
    with pytest.raises(InputError, match=f"{LOCK_FILE} is not a regular file"):
        lock_workdir(tmp_path).__enter__()
    assert os.listdir(tmp_path) == [LOCK_FILE]  # a link is not followed


def test_second_lock_is_refused(tmp_path):
    with (
        lock_workdir(tmp_path),
        pytest.raises(WorkdirBusyError, match="Another process trains"),
        lock_workdir(tmp_path),
    ):
        pass
    with lock_workdir(tmp_path):
        pass


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def without_locks(request, monkeypatch) -> str:
    """A file system without flock; returns the name of its error."""

    def flock(*_) -> None:
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    workdir._log_missing_locks.cache_clear()
    return request.param


def test_without_locks_a_file_names_the_process(tmp_path, without_locks, caplog):
    with caplog.at_level("INFO", logger="vae_jax"):
        for _ in range(2):
            with lock_workdir(tmp_path):
                content = json.loads((tmp_path / OWNER_FILE).read_text())
                busy = f"Process {os.getpid()} on {socket.gethostname()} trains in {tmp_path}"
                with pytest.raises(WorkdirBusyError, match=busy), lock_workdir(tmp_path):
                    pass
            assert not (tmp_path / OWNER_FILE).exists()
    assert (content["host"], content["process_id"]) == (socket.gethostname(), os.getpid())
    (record,) = caplog.records  # said once
    assert os.strerror(getattr(errno, without_locks)) in record.getMessage()


def test_other_errors_of_the_lock_are_told(tmp_path, monkeypatch):
    def flock(*_) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), lock_workdir(tmp_path):
        pass


def test_file_of_an_ended_process_is_replaced(tmp_path):
    """The process has ended, or its number now belongs to another one."""
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    host, started = socket.gethostname(), owner.Owner.of_process(os.getpid()).started
    path = tmp_path / OWNER_FILE
    for process_id, since in ((ended.pid, "1"), (os.getpid(), str(int(started) - 1))):
        content = {"host": host, "process_id": process_id, "started": since}
        path.write_text(json.dumps(content))
        assert owner.claim(path) is None
        assert json.loads(path.read_text())["started"] == started
    assert os.listdir(tmp_path) == [OWNER_FILE]


def test_file_of_a_living_process_stays(tmp_path):
    path = tmp_path / OWNER_FILE
    alive = owner.Owner.of_process(os.getppid())
    path.write_text(json.dumps(vars(alive)))
    assert owner.claim(path) == alive


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"host": "elsewhere", "process_id": 1, "started": "7"}', "Process 1 on elsewhere"),
        ("", "Another process"),
        ('{"host": 1}', "Another process"),
    ],
)
def test_file_of_which_nothing_is_known_is_named(tmp_path, content, name):
    path = tmp_path / OWNER_FILE
    path.write_text(content)
    with pytest.raises(WorkdirBusyError) as caught, lock_workdir(tmp_path):
        pass
    assert str(caught.value).startswith(f"{name} trains in {tmp_path}: ")
    assert f"remove {path}" in str(caught.value)
    assert path.read_text() == content


def test_file_that_another_process_has_just_replaced_stays(tmp_path, monkeypatch):
    """Two processes find the file of an ended one at the same time."""
    path = tmp_path / OWNER_FILE
    alive = owner.Owner.of_process(os.getppid())
    path.write_text(json.dumps(vars(alive) | {"started": "1"}))
    remove = owner._remove

    def replace_and_remove(path, content) -> None:
        path.write_text(json.dumps(vars(alive)))
        remove(path, content)

    monkeypatch.setattr(owner, "_remove", replace_and_remove)
    assert owner.claim(path) == alive
    assert os.listdir(tmp_path) == [OWNER_FILE]


def test_owner_file_that_is_a_link_is_refused(tmp_path):
    (tmp_path / OWNER_FILE).symlink_to("nowhere")
    with pytest.raises(InputError, match="symbolic link"):
        owner.claim(tmp_path / OWNER_FILE)
