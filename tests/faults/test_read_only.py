"""A workdir that cannot be created or written: a line with path, reason, remedy; exit code 1."""

import os
import pathlib
import shutil
import subprocess

import pytest

from tests import processes
from tests.conftest import make_config
from tests.faults.conftest import assert_one_line
from vae_jax import evaluation, training
from vae_jax.errors import UserError
from vae_jax.runtime import process
from vae_jax.runtime.workdir import ELSEWHERE

# Root ignores permissions; this drops the capabilities that let it do so.
AS_ANYBODY = (
    *("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
    *("--inh-caps=-dac_override,-dac_read_search", "--"),
)
REMEDY = "Give this user the right to read and write it, or choose another directory."


@pytest.fixture(scope="module")
def bound() -> tuple[str, ...]:
    """The prefix of a command that makes it subject to permissions."""
    prefix = AS_ANYBODY if os.geteuid() == 0 else ()
    if prefix and shutil.which("setpriv") is None:
        pytest.skip("root ignores permissions, and setpriv (util-linux) is not installed")
    test = ["sh", "-c", "d=$(mktemp -d); chmod 555 $d; touch $d/x; code=$?; rm -rf $d; exit $code"]
    completed = subprocess.run([*prefix, *test], capture_output=True, text=True, check=False)
    if completed.returncode == 0:
        pytest.skip("this user ignores permissions, even without its capabilities")
    if "setpriv" in completed.stderr:
        pytest.skip(f"setpriv cannot drop capabilities here: {completed.stderr.strip()}")
    return prefix


def make_read_only(directory: pathlib.Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def run(undisturbed, tmp_path):
    """A copy of the complete run, which a test may make read-only."""
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    yield workdir
    for path in [workdir, *workdir.rglob("*")]:
        path.chmod(0o755)


def test_path_that_cannot_be_created(runs, bound, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    workdir = tmp_path / "closed" / "run"
    completed = runs.train(workdir, prefix=bound)
    assert_one_line(completed, "train.py", f"train.py: {workdir}: Permission denied. {REMEDY}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file", "File exists. It must be a directory"), ("file/run", "Not a directory")],
)
def test_file_in_the_way(data_dir, tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end, process.exit_on_user_error("train.py"):
        config = make_config(data_dir)
        training.train_and_evaluate(config, tmp_path / name, evaluation.validate)
    assert str(end.value).startswith(f"train.py: {tmp_path / name}: {reason}")
    assert (tmp_path / "file").read_text() == ""


def test_missing_path_is_no_run_to_evaluate(tmp_path):
    with pytest.raises(UserError, match="is not a training run"):
        evaluation.run(tmp_path / "run")


def test_directory_without_write_permission(runs, bound, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir(mode=0o555)
    completed = runs.train(workdir, prefix=bound)
    assert_one_line(completed, "train.py", f"train.py: {workdir}: Permission denied. {REMEDY}")
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_run_made_read_only(runs, bound, run, script):
    make_read_only(run)
    command = runs.train if script == "train.py" else runs.evaluate
    completed = command(run, prefix=bound)
    elsewhere = [ELSEWHERE] if script == "evaluate.py" else []
    assert_one_line(completed, script, f"{script}: {run}: Permission denied. {REMEDY}", *elsewhere)


def test_run_of_another_user(runs, bound, run):
    """Its directory is writable, but its files are not."""
    make_read_only(run)
    run.chmod(0o755)
    completed = runs.train(run, prefix=bound)
    assert_one_line(completed, "train.py", f"{run}/", f": Permission denied. {REMEDY}")


@pytest.mark.long
def test_read_only_run_is_evaluated_and_diagnosed_elsewhere(runs, bound, run, tmp_path):
    make_read_only(run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    output = tmp_path / "new" / "results"
    completed = runs.evaluate(run, f"--output={output}", prefix=bound)
    assert completed.returncode == 0, completed.stderr
    assert f"{output}/metrics.json" in completed.stdout
    flags = [f"--workdir={run}", f"--output={tmp_path / 'diagnosis'}"]
    completed = processes.finish(runs.start("vae_jax/doctor/__main__.py", *flags, prefix=bound))
    assert completed.returncode in (0, 1) and "Written:" in completed.stdout, completed.stderr
    assert {p.name for p in (tmp_path / "diagnosis").iterdir()} == {"diagnosis.md", "diagnosis.png"}
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    "script", ["train.py", pytest.param("evaluate.py", marks=pytest.mark.long)]
)
def test_read_only_file_system(runs, run, script):
    mount = ("unshare", "-rm", "sh", "-c", f'mount --bind -o ro {run} {run} && exec "$@"', "sh")
    try:
        possible = subprocess.run([*mount, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a read-only file system is made with unshare (util-linux)")
    if possible.returncode:
        pytest.skip(f"nothing can be mounted in a namespace here: {possible.stderr.strip()}")
    command = runs.train if script == "train.py" else runs.evaluate
    completed = command(run, prefix=mount)
    assert_one_line(completed, script, f"{script}: {run}: Read-only file system. {REMEDY}")
