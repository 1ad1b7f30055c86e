"""Tests of vae_jax/report/directory.py: an evaluation replaces the old one whole, or not at all."""

import base64
import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.conftest import REPOSITORY, make_experiment, user_environment
from tests.report.test_report import ELBO
from vae_jax import gallery, report
from vae_jax.errors import InputError
from vae_jax.metrics import stored
from vae_jax.recording import figures
from vae_jax.report import markdown

GALLERY = REPOSITORY / "vae_jax" / "gallery"
TABLE = "theirs/table.csv"
THEIRS = ("notes.txt", TABLE, "images/my_plot.png", "images/worst_case.png", ".hidden")
DEAD = 2**22 + 1  # a process id above the largest that Linux gives
PICTURES = {"old": "samples", "new": "traversals"}


def write(directory: pathlib.Path, label: str, **options) -> None:
    """Writes an evaluation whose metrics, report and pictures tell which one it is."""
    step = {"old": 1, "new": 2}[label]
    metrics = {"elbo": dataclasses.replace(ELBO, checkpoint_step=step)}
    grids = {PICTURES[label]: np.full((4, 4, 3), step, np.uint8)}
    report.write_evaluation(directory, make_experiment(), metrics, grids, **options)


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def beside(directory: pathlib.Path) -> list[str]:
    """The names beside a directory, of which a finished evaluation leaves none."""
    return [path.name for path in directory.parent.iterdir() if path != directory]


def add_theirs(directory: pathlib.Path) -> dict[str, bytes]:
    for name in THEIRS:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(f"theirs: {name}")
    return {name: f"theirs: {name}".encode() for name in THEIRS}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The files of each of the two evaluations, undisturbed."""
    found = {}
    for label in PICTURES:
        directory = tmp_path_factory.mktemp("run") / "eval"
        write(directory, label)
        found[label] = content(directory)
    assert found["old"].keys() ^ found["new"].keys() == {
        f"images/{name}.png" for name in PICTURES.values()
    }
    return found


@pytest.fixture
def old(tmp_path, expected) -> pathlib.Path:
    """The directory of the old evaluation, with files of a user in it."""
    directory = tmp_path / "run" / "eval"
    write(directory, "old")
    add_theirs(directory)
    return directory


def test_new_evaluation_replaces_the_old_one_and_keeps_other_files(old, expected):
    theirs = add_theirs(old)
    old.chmod(0o750)
    write(old, "new")
    assert content(old) == expected["new"] | theirs
    assert beside(old) == [] and old.stat().st_mode & 0o777 == 0o750


def test_link_to_a_directory_stays_and_links_in_it_are_not_followed(old, tmp_path, expected):
    theirs = tmp_path / "theirs.json"
    theirs.write_text("theirs")
    (old / report.METRICS_FILE).unlink()
    (old / report.METRICS_FILE).symlink_to(theirs)
    link = tmp_path / "linked"
    link.symlink_to(old)
    write(link, "new")
    assert link.is_symlink() and stored.read(old / report.METRICS_FILE)["elbo"].checkpoint_step == 2
    assert theirs.read_text() == "theirs" and beside(old) == []


# Errors and kills


class Crash(BaseException):
    """What no handler of errors catches."""


STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir")  # of the module os


@contextlib.contextmanager
def watched(act):
    """Calls `act` with the number of each step in the file system before it is done."""
    numbers = itertools.count(1)

    def wrap(step):
        def call(*arguments, **options):
            act(next(numbers))
            return step(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, wrap(getattr(os, name)))
        yield


@pytest.fixture
def num_steps(old, tmp_path) -> int:
    """The number of steps of an undisturbed evaluation."""
    directory = shutil.copytree(old, tmp_path / "undisturbed" / "eval")
    steps: list[int] = []
    with watched(steps.append):
        write(directory, "new")
    return len(steps)


def test_error_at_any_step_leaves_a_whole_evaluation_and_other_files(old, num_steps, expected):
    found, theirs = [], add_theirs(old)
    for step in range(1, num_steps + 1):
        directory = shutil.copytree(old, old.parent / str(step) / "eval")

        def fail(number, step=step):
            if number == step:
                raise Crash

        with pytest.raises(Crash), watched(fail):
            write(directory, "new")
        there = content(directory)
        found += [label for label in expected if there == expected[label] | theirs]
        assert len(found) == step
    assert found == sorted(found, reverse=True) and {*found} == {"old", "new"}


@pytest.mark.filterwarnings("ignore:.*fork")
def test_kill_at_any_step_leaves_a_whole_evaluation_and_other_files(old, num_steps, expected):
    """A real end of a process, so that nothing is tidied up before the next reader comes."""
    found, theirs = [], add_theirs(old)
    for step in range(1, num_steps + 1):
        directory = shutil.copytree(old, old.parent / str(step) / "eval")
        kill_at(step, directory)
        report.summarise(directory)
        there = content(directory)
        found += [label for label in expected if there == expected[label] | theirs]
        assert len(found) == step and beside(directory) == []
    assert found == sorted(found, reverse=True) and {*found} == {"old", "new"}


def kill_at(step: int, directory: pathlib.Path) -> None:
    """Writes the new evaluation in a process of its own, which ends before this step."""
    child = os.fork()
    if not child:
        try:
            with watched(lambda number: number == step and os._exit(9)):
                write(directory, "new")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_evaluation_that_cannot_take_its_place_is_kept_beside_the_old_one(
    old, expected, monkeypatch, caplog
):
    before = content(old)

    def refuse(source, target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="busy"):
        patch.setattr(os, "rename", refuse)  # the writers of files use os.replace
        write(old, "new")
    (name,) = beside(old)
    assert content(old) == before and content(old.parent / name) == expected["new"]
    assert f"the new evaluation is in {old.parent / name}" in caplog.text


@pytest.mark.parametrize("failing", ["_write_pictures", "_to_markdown", "create_content"])
def test_metrics_are_published_if_the_report_fails(old, monkeypatch, failing, caplog):
    def fail(*arguments, **options):
        raise UnicodeEncodeError("ascii", "±", 0, 1, "no such letter")

    theirs = add_theirs(old)
    monkeypatch.setattr(markdown, failing, fail)
    with pytest.raises(UnicodeEncodeError):
        write(old, "new")
    assert stored.read(old / report.METRICS_FILE)["elbo"].checkpoint_step == 2
    assert not (old / report.REPORT_FILE).exists()  # the old one would not belong to the metrics
    assert content(old).items() >= theirs.items() and beside(old) == []
    assert f"{old / report.METRICS_FILE}, but the report failed" in caplog.text


def test_first_evaluation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "run" / "eval", "new")
    assert [*(tmp_path / "run").iterdir()] == []


# Several evaluations


def test_evaluations_at_the_same_time_do_not_damage_each_other(old, expected):
    theirs, errors = add_theirs(old), []

    def repeat(label):
        try:
            for _ in range(6):
                write(old, label)
                report.recover(old)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=[label]) for label in ("old", "new", "new")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert content(old) in [expected[label] | theirs for label in expected] and beside(old) == []


def name_of(process: int, suffix: str, host: str | None = None) -> str:
    return f".eval.{process}@{host or platform.node()}.0123abcd{suffix}"


@pytest.mark.parametrize("suffix", [".new", ".previous"])
def test_what_a_killed_evaluation_left_is_removed_but_not_files_of_a_user(old, expected, suffix):
    theirs = add_theirs(old)
    leftover = old.with_name(name_of(DEAD, suffix))
    write(leftover, "old")
    (leftover / "more.txt").write_text("theirs too")
    (leftover / "notes.txt").write_text("other notes of the same name")
    write(old, "new")
    assert content(old) == expected["new"] | theirs | {"more.txt": b"theirs too"}
    assert content(leftover) == {"notes.txt": b"other notes of the same name"}


@pytest.mark.parametrize(
    "name",
    [
        name_of(os.getpid(), ".new"),
        name_of(DEAD, ".new", host="elsewhere"),
        name_of(DEAD, ".other"),
        f".eval.more.{DEAD}@{platform.node()}.0123abcd.new",
        "eval.previous",
    ],
    ids=["of_this_process", "of_another_host", "no_suffix", "of_another_directory", "no_owner"],
)
def test_other_directories_beside_it_stay(old, name):
    write(old.with_name(name), "old")
    before = content(old.with_name(name))
    write(old, "new")
    assert content(old.with_name(name)) == before


def test_previous_evaluation_comes_back_and_not_an_older_one(old, expected):
    for process, label, time in ((DEAD, "old", 1.0), (DEAD - 1, "new", 2.0)):
        directory = old.with_name(name_of(process, ".previous"))
        write(directory, label)
        os.utime(directory / report.METRICS_FILE, (time, time))
    shutil.rmtree(old)
    assert "step 2" in report.summarise(old)
    assert content(old) == expected["new"] and beside(old) == []


# Another directory


def test_links_lead_to_the_curves_of_the_workdir(tmp_path):
    workdir, directory = tmp_path / "my run", tmp_path / "a" / "b"
    figures.save_image(workdir / "curves.png", np.zeros((4, 4, 3), np.uint8))
    write(directory, "new", workdir=workdir)
    (link,) = re.findall(r"!\[training curves\]\((.*)\)", (directory / "report.md").read_text())
    assert link == "../../my%20run/curves.png"
    embedded = base64.b64encode((workdir / "curves.png").read_bytes()).decode()
    assert embedded in (directory / "report.html").read_text(encoding="utf-8")
    assert str(workdir / "curves.png") in report.summarise(directory, workdir)
    assert [path.name for path in workdir.iterdir()] == ["curves.png"]


def test_directory_may_be_new_empty_or_an_evaluation(old, tmp_path):
    (tmp_path / "empty").mkdir()
    for directory in (old, tmp_path / "empty", tmp_path / "new" / "er"):
        report.check_replaceable(directory, is_chosen=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", [None, "{}", '{"loss": 3}', "not JSON", '{"version": 9}'])
def test_chosen_directory_with_other_things_is_refused(tmp_path, text):
    (tmp_path / "notes.txt").write_text("theirs")
    if text is not None:
        (tmp_path / report.METRICS_FILE).write_text(text)
    with pytest.raises(InputError, match=f"--output={tmp_path} holds other things"):
        report.check_replaceable(tmp_path, is_chosen=True)
    report.check_replaceable(tmp_path, is_chosen=False)  # the directory that is always used
    assert (tmp_path / "notes.txt").exists()


def test_file_and_mount_point_are_refused_in_time(old, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "eval"):
        with pytest.raises(NotADirectoryError):
            report.check_replaceable(directory, is_chosen=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == old)
    with pytest.raises(InputError, match=f"{old} is a mount point .* --output={old}/eval"):
        report.check_replaceable(old, is_chosen=True)


# An ASCII locale

IN_ASCII = r"""
import locale, pathlib, sys
assert locale.getencoding() != "utf-8" and sys.stdout.encoding == "ascii", sys.stdout.encoding
from tests.report.test_directory import write
from vae_jax import report
from vae_jax.runtime import process
process.log_to_stderr().info("\xb1 logged")
directory = pathlib.Path(sys.argv[1])
write(directory, "new", notes=[f"\xb1 {directory}"])
print(report.summarise(directory))
"""


def test_ascii_locale_is_enough(tmp_path):
    directory = tmp_path / "é" / "eval"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    completed = subprocess.run(
        [sys.executable, "-c", IN_ASCII, directory],
        cwd=REPOSITORY,
        env=user_environment() | environment,
        capture_output=True,
        encoding="ascii",
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert r"\xb1 logged" in completed.stderr and r"\xb1 0.89 nats" in completed.stdout
    for name in (report.REPORT_FILE, report.HTML_FILE):
        assert f"± {directory}" in (directory / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["n" * 255, "\u00e4" * 127])
def test_directory_may_have_the_longest_name(tmp_path, name):
    for label in PICTURES:
        write(tmp_path / name, label)
    assert beside(tmp_path / name) == [] and (tmp_path / name / report.REPORT_FILE).exists()


def test_all_pictures_of_galleries_are_known():
    """Others in images/ are a user's."""
    names = re.findall(r'"(worst_\w+)"', "".join(p.read_text() for p in GALLERY.glob("*.py")))
    assert set(names) == set(gallery.PICTURES)
