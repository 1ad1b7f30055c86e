"""Imports run downward only, and nothing needs TensorFlow."""

import sys

import pytest

from scripts import architecture
from scripts.architecture import (
    FLOORS,
    PACKAGE,
    imported_names,
    imported_rooms,
    paths_of,
    room_of,
)
from tests.conftest import REPOSITORY, run_python

SEES_CONFIG_DICT = {
    *{"config", "experiment", "doctor", "inference", "training", "evaluation", "report"},
    *{"studies", "commands"},
}


ROOMS = sorted({room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"})
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def is_imported(package: str, names: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names)


def test_every_room_has_exactly_one_floor():
    assert sorted(room for floor in FLOORS for room in floor) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downward(room):
    own = next(i for i, floor in enumerate(FLOORS) if room in floor)
    assert imported_rooms(room) <= set().union(*FLOORS[:own])


def test_picture_shows_the_rooms_as_they_are():
    """If not: `make report`."""
    assert architecture.PICTURE.read_text() == architecture.draw()


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


def test_training_and_evaluation_do_not_import_each_other():
    assert not is_imported("vae_jax.evaluation", imported_names(paths_of("training")))
    assert not is_imported("vae_jax.training", imported_names(paths_of("evaluation")))


OPTIONAL = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")
SLOW = (*OPTIONAL, "matplotlib", "scipy.stats")


def test_importing_everything_imports_nothing_slow():
    code = f"import sys, {', '.join(MODULES)}; print({{*{SLOW}}} & {{*sys.modules}})"
    completed = run_python("-W", "error", "-c", code, tensorflow=True)
    assert completed.stdout == "set()\n", completed.stderr


def test_importing_works_without_tensorflow_clu_and_tensorboard():
    hide = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))"
    completed = run_python("-c", f"{hide}; import {', '.join(MODULES)}; print(vae_jax.load)")
    assert completed.returncode == 0, completed.stderr
    assert "function load" in completed.stdout


def test_scripts_import_only_the_package_jax_and_absl():
    for script in ("train.py", "evaluate.py"):
        names = imported_names([REPOSITORY / script])
        roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert roots <= {"absl", "jax", "ml_collections", "vae_jax"}
