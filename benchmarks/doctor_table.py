"""Does the doctor name each known failure, and stay silent on healthy runs?

    python -m benchmarks.doctor_table --workdir=workdir/pathologies

Trains every configuration of configs/pathologies on Fashion-MNIST with three seeds, diagnoses each
run from its workdir, and writes table.json and table.md. Run the same command again to continue
after a stop; several processes with the same command share the runs.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import pathlib
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from configs import pathologies
from vae_jax import config as configuration
from vae_jax import data, doctor, evaluation, files, training
from vae_jax.recording.tables import Table
from vae_jax.runtime import process
from vae_jax.studies import engine
from vae_jax.studies.engine import Run

SEEDS = (0, 1, 2)


def load_pathologies() -> dict[str, ModuleType]:
    """Returns {name: module of configs/pathologies}, with the known failures first."""
    names = [module.name for module in pkgutil.iter_modules(pathologies.__path__)]
    modules = {n: importlib.import_module(f"configs.pathologies.{n}") for n in names if n != "base"}
    return dict(sorted(modules.items(), key=lambda item: item[1].EXPECTED is None))


def make_config(module: ModuleType, workdir: pathlib.Path, seed: int, **overrides):
    """Returns the configuration of a run; writes its spoilt images, if any, to workdir/data."""
    config = module.get_config()
    config = configuration.with_changes(config, {"seed": seed, **overrides})
    if hasattr(module, "spoil"):
        spoilt = workdir / "data" / module.__name__.rpartition(".")[2]
        if not spoilt.exists():
            _write_spoilt(module, data.prepare(config.data.name, config.data.dir), spoilt)
        config = configuration.with_changes(config, {"data.name": str(spoilt.absolute())})
    return config


def _write_spoilt(module: ModuleType, source: pathlib.Path, target: pathlib.Path) -> None:
    names = ("train_images.npy", "test_images.npy")
    images = module.spoil(*(np.load(source / name) for name in names))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=target.parent))
    for name, array in zip(names, images, strict=True):
        np.save(scratch / name, array)
    try:
        scratch.rename(target)
    except OSError:  # another process was faster, with the same images
        shutil.rmtree(scratch)


def train_and_diagnose(config, run_dir: pathlib.Path) -> list[dict[str, str]] | int:
    """Trains in `run_dir` and writes the diagnosis; a run may diverge.

    Returns:
      The findings, or the number of the signal that stopped the training.
    """
    with contextlib.suppress(training.TrainingDivergedError):
        stopped_by = training.train_and_evaluate(config, run_dir, evaluation.validate)
        if stopped_by is not None:
            return stopped_by
    diagnosis = doctor.diagnose_workdir(run_dir)
    diagnosis.write(run_dir)
    return [dataclasses.asdict(finding) for finding in diagnosis.findings]


def make_runs(workdir: pathlib.Path, data_dir: str) -> list[Run]:
    """Returns all runs, seed by seed; their labels are NAME/seed_SEED."""

    def work(name: str, seed: int) -> list[dict[str, str]] | int:
        config = make_config(load_pathologies()[name], workdir, seed, **{"data.dir": data_dir})
        return train_and_diagnose(config, workdir / name / f"seed_{seed}")

    return [
        Run(workdir / label, label, functools.partial(work, name, seed))
        for seed in SEEDS
        for name in load_pathologies()
        for label in [f"{name}/seed_{seed}"]
    ]


def write_table(workdir: pathlib.Path, findings: Mapping[str, list[dict[str, str]]]) -> None:
    """Writes table.json and table.md from {label: findings} of the finished runs."""
    results: dict[str, list] = {name: [] for name in load_pathologies()}
    for label, run in findings.items():
        results[label.partition("/")[0]].append({f["name"]: f["severity"] for f in run})
    files.write_json(workdir / "table.json", results)
    files.write_text(workdir / "table.md", "\n".join(make_table(results).to_markdown()))


def make_table(results: Mapping[str, list[dict[str, str]]]) -> Table:
    """Makes the table from the content of table.json, {name: [{finding: severity} of each run]}."""
    rows = []
    for name, module in load_pathologies().items():
        runs, expected = results[name], module.EXPECTED
        if not runs:
            continue
        cells = ["none", "", ""]
        if expected is not None:
            severities = [run.get(expected) for run in runs]
            named = sum(s is not None for s in severities)
            severe = severities.count("severe")
            cells = [f"`{expected}`", f"{named} of {len(runs)}", f"{severe} of {len(runs)}"]
        others = [f for run in runs for f, s in run.items() if s == "severe" and f != expected]
        counts = ", ".join(f"`{f}` {others.count(f)}" for f in dict.fromkeys(others))
        summary = module.__doc__.splitlines()[0].rstrip(".")
        rows.append([f"`{name}`: {summary}", *cells, counts or "none"])
    return Table(["run", "finding", "named", "severe", "other severe findings"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="workdir/pathologies")
    parser.add_argument("--data_dir", default=data.DEFAULT_DATA_DIR)
    arguments = parser.parse_args()
    process.log_to_stderr()
    workdir = arguments.workdir
    runs = make_runs(workdir, arguments.data_dir)
    stopped_by = engine.run_all(runs, functools.partial(write_table, workdir))
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    print(files.read_text(workdir / "table.md"))


if __name__ == "__main__":
    main()
