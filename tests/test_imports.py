"""Imports run downward only, and TensorFlow is nowhere needed."""

import ast
import pathlib
import sys

import pytest

from tests.conftest import REPOSITORY, run_python

PACKAGE = REPOSITORY / "vae_jax"

# From low to high. A module imports modules of lower layers only; the files of a directory are one
# module here, but for commands that use all of the package.
COMMANDS = {"priors/compare.py": "priors.compare"}
LAYERS = (
    {"schedules", "distributions", "figures", "tables", "data_sources"},
    {"sharding", "process", "writers", "profiling"},
    {"blocks"},
    {"priors"},
    {"data", "likelihoods", "models", "optim", "metrics"},
    {"objectives", "state"},
    {"steps", "checkpoints"},
    {"config"},
    {"inference", "autotune"},
    {"doctor", "frozen_vae"},
    {"training", "evaluation"},
    {"sample_quality"},
    {"gallery"},
    {"report_content"},
    {"html_report"},
    {"report"},
    {"ablation", "priors.compare"},
)
SEES_CONFIG_DICT = {
    *{"config", "doctor", "inference", "frozen_vae", "training", "evaluation", "report"},
    *{"report_content", "ablation", "autotune", "priors.compare"},
}


def module_name(path: pathlib.Path) -> str:
    """vae_jax/steps.py -> steps; vae_jax/models/vae.py -> models."""
    relative = path.relative_to(PACKAGE)
    return COMMANDS.get(str(relative)) or relative.parts[0].removesuffix(".py")


MODULES = sorted({module_name(p) for p in PACKAGE.rglob("*.py")} - {"__init__"})


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


def paths_of(module: str) -> list[pathlib.Path]:
    return [path for path in PACKAGE.rglob("*.py") if module_name(path) == module]


def is_imported(package: str, names: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names)


def test_every_module_has_exactly_one_layer():
    assert sorted(name for layer in LAYERS for name in layer) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    own = next(i for i, layer in enumerate(LAYERS) if module in layer)
    imported = {
        name.split(".")[1]
        for name in imported_names(paths_of(module))
        if name.startswith("vae_jax.")
    } - {module}
    assert imported <= set().union(*LAYERS[:own])


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("orbax", {"checkpoints"}),
        ("clu", {"writers"}),
        ("tensorflow", {"writers"}),
        ("tensorflow_datasets", {"data_sources"}),
        ("matplotlib", {"figures"}),
        ("jinja2", {"html_report"}),
        ("ml_collections", SEES_CONFIG_DICT),
        ("absl.flags", set()),
        ("absl.app", set()),
    ],
)
def test_library_is_imported_in_its_place_only(package, allowed):
    importing = {m for m in MODULES if is_imported(package, imported_names(paths_of(m)))}
    assert importing <= allowed


def test_training_and_evaluation_do_not_know_each_other():
    assert not is_imported("vae_jax.evaluation", imported_names(paths_of("training")))
    assert not is_imported("vae_jax.training", imported_names(paths_of("evaluation")))


HEAVY = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")


def test_importing_everything_imports_no_tensorflow():
    modules = ["vae_jax", *(f"vae_jax.{m}" for m in MODULES)]
    code = f"import sys, {', '.join(modules)}; print({{*{HEAVY}}} & {{*sys.modules}})"
    completed = run_python("-W", "error", "-c", code)
    assert completed.stdout == "set()\n", completed.stderr


def test_importing_works_where_tensorflow_clu_and_tensorboard_are_missing():
    modules = ", ".join(["vae_jax", *(f"vae_jax.{m}" for m in MODULES)])
    hide = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
    completed = run_python("-c", f"{hide}; import {modules}; print(vae_jax.load)")
    assert completed.returncode == 0, completed.stderr
    assert "function load" in completed.stdout


def test_scripts_import_only_the_package_jax_and_absl():
    for script in ("train.py", "evaluate.py"):
        names = imported_names([REPOSITORY / script])
        roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert roots <= {"absl", "jax", "ml_collections", "vae_jax"}
