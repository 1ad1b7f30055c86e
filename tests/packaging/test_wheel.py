"""The wheel, installed in an environment of its own and used outside of the checkout."""

import pathlib
import sys
import sysconfig
import zipfile
from collections.abc import Sequence

import pytest

from tests import processes
from tests.conftest import REPOSITORY, TINY, run_command

CONFIGS = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}


def do(command: Sequence[object]) -> None:
    completed = processes.finish(processes.start(command))
    assert completed.returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    do([*command, "--no-build-isolation", f"--wheel-dir={directory}", REPOSITORY])
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> pathlib.Path:
    """A virtual environment that has the wheel, and its dependencies from the tests' own."""
    directory = tmp_path_factory.mktemp("environment")
    create = [sys.executable, "-m", "venv", "--without-pip", str(directory)]
    do(create)
    paths = {"base": str(directory), "platbase": str(directory)}
    site_packages = pathlib.Path(sysconfig.get_path("purelib", "venv", paths))
    own = sysconfig.get_path("purelib")
    (site_packages / "dependencies.pth").write_text(f"{own}\n")
    python = directory / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    do([*install, "--no-deps", "--ignore-installed", wheel])
    return directory / "bin"


def run(environment: pathlib.Path, command: str, *arguments, cwd: pathlib.Path) -> str:
    completed = run_command(environment / command, *arguments, cwd=cwd)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_wheel_has_what_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "vae_jax/py.typed",
        "vae_jax/report/templates/report.html.j2",
        "vae_jax/report/templates/report.css",
        "vae_jax/report/templates/report.js",
        *(f"vae_jax/configs/{name}.py" for name in CONFIGS),
    } <= names
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"vae_jax"}


def test_installed_commands(environment, data_dir, tmp_path):
    """vae-train, vae-evaluate, vae-doctor and load, from a directory that holds nothing else."""
    values = {**TINY, "data.dir": str(data_dir), "train.num_steps": 8, "kl.warmup_steps": 8}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    run(environment, "vae-train", "--config=demo", "--workdir=run", *flags, cwd=tmp_path)
    printed = run(
        environment,
        "vae-evaluate",
        *("--workdir=run", "--num_samples=0", "--num_failures=0"),
        cwd=tmp_path,
    )
    assert "elbo" in printed and (tmp_path / "run" / "eval" / "report.html").exists()
    assert "diagnosis.md" in run(environment, "vae-doctor", "--workdir=run", cwd=tmp_path)
    code = "import vae_jax; print(vae_jax.__file__); print(vae_jax.load('run').step)"
    path, step = run(environment, "python", "-c", code, cwd=tmp_path).split()
    assert pathlib.Path(path).is_relative_to(environment.parent)
    assert step == "8"


def test_unknown_name_lists_those_that_ship(environment, tmp_path):
    command = [environment / "vae-train", "--config=demoo", "--workdir=run"]
    completed = run_command(*command, cwd=tmp_path)
    assert completed.returncode == 1
    (line,) = completed.stderr.splitlines()
    assert line.startswith("vae-train: --config=demoo: ")
    assert all(name in line for name in CONFIGS - {"__init__"})
