"""Does the doctor name each known failure, and stay silent on healthy runs?

    python -m benchmarks.doctor_table --workdir=workdir/pathologies

Trains every configuration of configs/pathologies on Fashion-MNIST with three seeds, diagnoses each
run from its workdir, and writes table.json and table.md. Finished runs are not repeated. Start the
same command in several processes to share the runs among them.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import logging
import pathlib
import pkgutil
import shutil
import sys
from types import ModuleType

import numpy as np

from configs import pathologies
from vae_jax import data, doctor, evaluation, training
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError, lock_workdir

LOGGER = logging.getLogger("vae_jax.doctor_table")
RESULT_FILE = "findings.json"
SEEDS = (0, 1, 2)


def load_pathologies() -> dict[str, ModuleType]:
    """Returns {name: module of configs/pathologies}, with the known failures first."""
    names = [module.name for module in pkgutil.iter_modules(pathologies.__path__)]
    modules = {n: importlib.import_module(f"configs.pathologies.{n}") for n in names if n != "base"}
    return dict(sorted(modules.items(), key=lambda item: item[1].EXPECTED is None))


def make_config(module: ModuleType, workdir: pathlib.Path, seed: int, **overrides):
    """Returns the configuration of a run; writes its spoilt images, if any, to workdir/data."""
    config = module.get_config()
    config.update_from_flattened_dict({"seed": seed, **overrides})
    if hasattr(module, "spoil"):
        spoilt = workdir / "data" / module.__name__.rpartition(".")[2]
        if not spoilt.exists():
            _write_spoilt(module, data.prepare(config.data.name, config.data.dir), spoilt)
        config.data.name = str(spoilt.absolute())
    return config


def _write_spoilt(module: ModuleType, source: pathlib.Path, target: pathlib.Path) -> None:
    names = ("train_images.npy", "test_images.npy")
    images = module.spoil(*(np.load(source / name) for name in names))
    scratch = target.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name, array in zip(names, images, strict=True):
        np.save(scratch / name, array)
    scratch.rename(target)


def train_and_diagnose(config, run_dir: pathlib.Path) -> doctor.Diagnosis:
    """Trains in `run_dir` and writes the diagnosis; a run may diverge."""
    with contextlib.suppress(training.TrainingDivergedError):
        stopped_by = training.train_and_evaluate(config, run_dir, evaluation.validate)
        if stopped_by is not None:
            sys.exit(128 + stopped_by)
    diagnosis = doctor.diagnose_workdir(run_dir)
    diagnosis.write(run_dir)
    return diagnosis


def run_all(workdir: pathlib.Path, data_dir: str) -> None:
    """Executes every unfinished run, seed by seed."""
    for seed in SEEDS:
        for name, module in load_pathologies().items():
            run_dir = workdir / name / f"seed_{seed}"
            claim = run_dir / ".claim"
            claim.mkdir(parents=True, exist_ok=True)
            try:
                with lock_workdir(claim):
                    if (run_dir / RESULT_FILE).exists():
                        continue
                    LOGGER.info("%s, seed %d", name, seed)
                    config = make_config(module, workdir, seed, **{"data.dir": data_dir})
                    findings = train_and_diagnose(config, run_dir).findings
                    content = json.dumps([dataclasses.asdict(f) for f in findings], indent=2)
                    (run_dir / RESULT_FILE).write_text(content + "\n")
            except WorkdirBusyError:
                continue  # another process works on it
            write_table(workdir)


def read_results(workdir: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    """Returns {name: [{finding: severity} for each finished run]}."""
    results = {}
    for name in load_pathologies():
        paths = sorted((workdir / name).glob(f"seed_*/{RESULT_FILE}"))
        runs = [json.loads(path.read_text()) for path in paths]
        results[name] = [{f["name"]: f["severity"] for f in run} for run in runs]
    return results


def write_table(workdir: pathlib.Path) -> None:
    """Writes table.json and table.md of the finished runs."""
    results = read_results(workdir)
    (workdir / "table.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [
        "| run | finding | named | severe | other severe findings |",
        "|---|---|---|---|---|",
    ]
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
        lines.append(f"| `{name}`: {summary} | {' | '.join(cells)} | {counts or 'none'} |")
    (workdir / "table.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="workdir/pathologies")
    parser.add_argument("--data_dir", default=data.DEFAULT_DATA_DIR)
    arguments = parser.parse_args()
    process.log_to_stderr()
    run_all(arguments.workdir, arguments.data_dir)
    print((arguments.workdir / "table.md").read_text())


if __name__ == "__main__":
    main()
