"""Imports run downward only, and TensorFlow is nowhere needed."""

import ast
import pathlib
import sys

import pytest

from tests.conftest import REPOSITORY, run_python

PACKAGE = REPOSITORY / "vae_jax"

# From the ground floor up: a room imports rooms of lower floors only. A room is a folder of the
# package, or a file that stands beside the folders. docs/architecture.md draws this table.
FLOORS = (
    {"errors", "typing"},
    {"distributions", "recording", "runtime"},
    {"blocks", "data", "optim"},
    {"likelihoods", "priors"},
    {"models", "metrics"},
    {"objectives", "config"},
    {"experiment", "checkpoints"},
    {"inference"},
    {"doctor"},
    {"training", "gallery"},
    {"report"},
    {"evaluation"},
    {"studies"},
    {"commands"},
)
SEES_CONFIG_DICT = {
    *{"config", "experiment", "doctor", "inference", "training", "evaluation", "report"},
    *{"studies", "commands"},
}


def room_of(path: pathlib.Path) -> str:
    """vae_jax/blocks.py -> blocks; vae_jax/models/vae.py -> models."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"})
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def imported_names(paths) -> set[str]:
    """'package.module' or 'package.module.name' of all imports, also those inside functions."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def paths_of(room: str) -> list[pathlib.Path]:
    return [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]


def is_imported(package: str, names: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names)


def test_every_room_has_exactly_one_floor():
    assert sorted(room for floor in FLOORS for room in floor) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downward(room):
    own = next(i for i, floor in enumerate(FLOORS) if room in floor)
    imported = {
        name.split(".")[1] for name in imported_names(paths_of(room)) if name.startswith("vae_jax.")
    } - {room}
    assert imported <= set().union(*FLOORS[:own])


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("orbax", {"checkpoints"}),
        ("clu", {"recording"}),
        ("tensorflow", {"recording"}),
        ("tensorflow_datasets", {"data"}),
        ("matplotlib", {"recording"}),
        ("jinja2", {"report"}),
        ("ml_collections", SEES_CONFIG_DICT),
        ("absl.flags", {"commands"}),
        ("absl.app", {"commands"}),
    ],
)
def test_library_is_imported_in_its_place_only(package, allowed):
    importing = {r for r in ROOMS if is_imported(package, imported_names(paths_of(r)))}
    assert importing <= allowed


def test_training_and_evaluation_do_not_know_each_other():
    assert not is_imported("vae_jax.evaluation", imported_names(paths_of("training")))
    assert not is_imported("vae_jax.training", imported_names(paths_of("evaluation")))


HEAVY = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")


def test_importing_everything_imports_no_tensorflow():
    code = f"import sys, {', '.join(MODULES)}; print({{*{HEAVY}}} & {{*sys.modules}})"
    completed = run_python("-W", "error", "-c", code)
    assert completed.stdout == "set()\n", completed.stderr


def test_importing_works_where_tensorflow_clu_and_tensorboard_are_missing():
    hide = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
    completed = run_python("-c", f"{hide}; import {', '.join(MODULES)}; print(vae_jax.load)")
    assert completed.returncode == 0, completed.stderr
    assert "function load" in completed.stdout


def test_scripts_import_only_the_package_jax_and_absl():
    for script in ("train.py", "evaluate.py"):
        names = imported_names([REPOSITORY / script])
        roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert roots <= {"absl", "jax", "ml_collections", "vae_jax"}
