"""Trains variants of one base configuration, each with several seeds, and compares them.

    python -m vae_jax.studies.ablation --config=configs/ablation/fashion_mnist.py \\
        --workdir=workdir/ablation

The file that `--config` names defines two functions. `get_config()` returns base, seeds,
num_test_images, num_samples, sample_metric_groups and panels. `get_groups()` returns
{group: {variant: changes to the base by dotted key}}. Variants with the same configuration share
their runs. Run the same command again to continue after a stop; several processes with the same
command share the runs.
"""

import argparse
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping
from typing import TypeAlias

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import checkpoints, evaluation, experiment, inference, training
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.evaluation.sample_quality import TAPS
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.recording import figures
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError, lock_workdir
from vae_jax.studies.ablation_metrics import KernelDistance, measure
from vae_jax.studies.ablation_table import (
    COLUMNS,
    PANELS,
    Curve,
    Results,
    Row,
    make_panels,
    to_json,
    to_markdown,
)

# Not __name__, which is __main__ when this module is run as a command.
LOGGER = logging.getLogger("vae_jax.studies.ablation")

RESULT_FILE = "result.json"
CLAIM_DIRECTORY = ".claim"  # locked by the process that trains and evaluates the run
BASE = "base"
# Group -> variant -> changes to the base configuration, by dotted key.
Groups: TypeAlias = Mapping[str, Mapping[str, Mapping[str, object]]]


def _changed(base: ConfigDict, changes: Mapping[str, object], where: str) -> ConfigDict:
    """Returns a locked copy of `base` with `changes` applied.

    Args:
      base: base configuration.
      changes: new values by dotted key.
      where: name of the variant, for error messages.

    Raises:
      InputError: a key is unknown or a value breaks a rule.
    """
    config = ConfigDict(base.to_dict()).lock()
    unknown = changes.keys() - configuration.flatten(base).keys()
    if unknown:
        raise InputError(
            f"{where} changes {', '.join(sorted(unknown))}, which the base does not have: use keys "
            "from vae_jax/config/defaults.py."
        )
    try:
        config.update_from_flattened_dict(dict(changes))
        experiment.validate(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    return config


def make_rows(base: ConfigDict, groups: Groups) -> list[Row]:
    """Makes one row per variant, in the order of the groups.

    Raises:
      InputError: a name cannot be used for a directory, a key is unknown, or a value breaks a rule.
    """
    runs = {json.dumps(configuration.flatten(base)): BASE}
    rows = []
    for group, variants in groups.items():
        for name, changes in variants.items():
            if not re.fullmatch(r"\w+", group) or not re.fullmatch(r"[\w.+-]+", name):
                raise InputError(
                    f"group {group!r}, variant {name!r}: both become part of the name of a "
                    "directory; use letters, digits and _, in the variant also . + -"
                )
            config = _changed(base, changes, f"group {group!r}, variant {name!r}")
            identity = json.dumps(configuration.flatten(config))
            run = runs.setdefault(identity, f"{group}-{name}")
            rows.append(Row(group, name, dict(changes), run, config))
    return rows


class Ablation:
    """All runs of an ablation in one workdir, and the tables and figures of their results.

    Args:
      settings: what `get_config()` returned.
      groups: what `get_groups()` returned.
      workdir: directory that receives runs/, ablation.json, ablation.md and ablation.png.
      inception_weights: file of the Inception weights; None: the file in the data directory, which
        is downloaded if it is missing.

    Raises:
      InputError: the settings or the groups break a rule.
    """

    def __init__(
        self,
        settings: ConfigDict,
        groups: Groups,
        workdir: str | pathlib.Path,
        inception_weights: str | None = None,
    ) -> None:
        self._settings, self._workdir = settings, pathlib.Path(workdir)
        self._weights_file = inception_weights
        self.rows = make_rows(settings.base, groups)
        self._configs = {row.run: row.config for row in self.rows}
        with_samples = settings.sample_metric_groups
        self._with_samples = {row.run for row in self.rows if row.group in with_samples}
        for group in (*with_samples, *(panel[1] for panel in settings.panels)):
            if group not in groups:
                raise InputError(
                    f"sample_metric_groups and panels name the group {group!r}, which "
                    f"get_groups() does not have: use {', '.join(groups)}."
                )
        for kind, _, metrics, _ in settings.panels:
            if kind not in PANELS or len(metrics) < PANELS[kind]:
                kinds = ", ".join(f"{k} ({n} metrics)" for k, n in PANELS.items())
                raise InputError(f"panels: {kind!r} of {list(metrics)} must be one of {kinds}.")
            unknown = [metric for metric in metrics if metric not in COLUMNS]
            if kind != "curves" and unknown:
                raise InputError(f"panels: {unknown} are unknown: use one of {', '.join(COLUMNS)}.")

    def run(self) -> int | None:
        """Does all runs that are not finished, and writes the results.

        Returns:
          The number of the signal that stopped it early, or None.

        Raises:
          InputError: a wrong configuration or dataset, or a workdir that holds other runs.
          CheckpointsDamagedError: none of the checkpoints of a run can be read.
        """
        self._check_finished()
        self.write()
        busy = []
        for seed in self._settings.seeds:
            for name in self._configs:
                if self.result(name, seed) is not None:
                    continue
                try:
                    stopped_by = self._finish(name, seed)
                except WorkdirBusyError:
                    busy.append((name, seed))
                    continue
                if stopped_by is not None:
                    return stopped_by
                self.write()
        busy = [(name, seed) for name, seed in busy if self.result(name, seed) is None]
        if busy:
            LOGGER.info(
                "Another process has %s. It will write the table when it is done.",
                ", ".join(f"{name} seed {seed}" for name, seed in busy),
            )
        self.write()
        return None

    def result(self, name: str, seed: int) -> dict | None:
        """Returns the result of a run, or None if it is not finished."""
        path = self._run_dir(name, seed) / RESULT_FILE
        return json.loads(path.read_text()) if path.exists() else None

    def write(self) -> None:
        """Writes ablation.json, ablation.md and ablation.png from the results so far."""
        written = None
        # Another process may finish a run in the meantime, and write the table before this one.
        while written != (text := json.dumps(results := self._results())):
            written = text
            self._workdir.mkdir(parents=True, exist_ok=True)
            base = self._settings.base
            _write_text(self._workdir / "ablation.json", to_json(base, self.rows, results))
            markdown = to_markdown(self._settings, self.rows, results, self._with_samples)
            _write_text(self._workdir / "ablation.md", markdown)
            temporary = self._workdir / f"ablation.{os.getpid()}.png"
            panels = make_panels(self._settings, self.rows, results, self._read_curves)
            figures.save_ablation(temporary, panels)
            temporary.replace(self._workdir / "ablation.png")

    def _run_dir(self, name: str, seed: int) -> pathlib.Path:
        return self._workdir / "runs" / name / f"seed_{seed}"

    def _results(self) -> Results:
        everything = {
            name: {seed: self.result(name, seed) for seed in self._settings.seeds}
            for name in self._configs
        }
        return {
            name: {seed: result for seed, result in by_seed.items() if result is not None}
            for name, by_seed in everything.items()
        }

    def _config(self, name: str, seed: int) -> ConfigDict:
        return _changed(self._configs[name], {"seed": seed}, name)

    def _protocol(self, name: str) -> dict[str, int]:
        """Returns what the result of a run depends on in addition to its configuration."""
        protocol = {"num_test_images": self._settings.num_test_images}
        if name in self._with_samples:
            protocol["num_samples"] = self._settings.num_samples
        return protocol

    def _check_finished(self) -> None:
        """Raises an InputError if a finished run was trained or measured with other settings."""
        for name, by_seed in self._results().items():
            for seed, result in by_seed.items():
                run_dir = self._run_dir(name, seed)
                image_shape = configuration.load_image_shape(run_dir)
                configuration.check_unchanged(self._config(name, seed), image_shape, run_dir)
                if result["protocol"] != self._protocol(name):
                    raise InputError(
                        f"{run_dir} was measured with {result['protocol']}, but now it would be "
                        f"measured with {self._protocol(name)}: give another --workdir, or the "
                        "settings that this one was started with."
                    )

    def _finish(self, name: str, seed: int) -> int | None:
        """Trains and measures one run.

        Returns:
          The number of the signal that stopped its training, or None.
        """
        config, run_dir = self._config(name, seed), self._run_dir(name, seed)
        claim = run_dir / CLAIM_DIRECTORY
        claim.mkdir(parents=True, exist_ok=True)
        with lock_workdir(claim):
            if self.result(name, seed) is not None:  # another process has just finished it
                return None
            images = self._test_images  # before training, because there may be too few
            LOGGER.info("%s, seed %d: %s", name, seed, run_dir)
            result = {"run": name, "seed": seed, "protocol": self._protocol(name)}
            try:
                stopped_by = training.train_and_evaluate(config, run_dir, evaluation.validate)
                if stopped_by is not None:
                    return stopped_by
                # GPUs would round float32 products to TensorFloat-32.
                with jax.default_matmul_precision("highest"):
                    result |= self._measure(inference.load(run_dir, "latest"), images, name)
            except training.TrainingDivergedError as error:
                LOGGER.warning("%s, seed %d diverged: %s", name, seed, error)
                result["diverged"] = str(error)
            result["training"] = _training_record(run_dir)
            _write_text(run_dir / RESULT_FILE, json.dumps(result, indent=2) + "\n")
            shutil.rmtree(run_dir / checkpoints.DIRECTORY, ignore_errors=True)
        return None

    def _measure(self, vae: TrainedVAE, images: np.ndarray, name: str) -> dict[str, object]:
        """Measures a trained run: {'step', 'metrics'}, or {'step', 'diverged'}."""
        metrics = measure(vae, images)
        bad = [metric for metric, value in metrics.items() if not np.isfinite(value)]
        if bad:
            return {"step": vae.step, "diverged": f"not finite on the test images: {bad}"}
        if name in self._with_samples and self._kernel_distance is not None:
            distance = self._kernel_distance(vae, self._settings.num_samples)
            metrics[self._kernel_distance.name] = distance
        return {"step": vae.step, "metrics": metrics}

    @functools.cached_property
    def _test_images(self) -> np.ndarray:
        """The first test images in the fixed random order of evaluations, uint8 [N, H, W, C]."""
        split = experiment.load_split(self._settings.base, "test")
        n = self._settings.num_test_images
        if not 1 <= n <= len(split):
            raise InputError(
                f"num_test_images = {n} must lie between 1 and {len(split)}, the number of test "
                "images."
            )
        return split.take(np.random.default_rng(0).permutation(len(split))[:n])

    @functools.cached_property
    def _kernel_distance(self) -> KernelDistance | None:
        """The distance, or None, with one warning, if there are no Inception weights for it."""
        data = self._settings.base.data
        directory = pathlib.Path(data.dir).expanduser()
        try:
            weights = inception_weights.find_or_download(self._weights_file, directory)
        except inception_weights.WeightsUnavailableError as error:
            LOGGER.warning("No KID is computed in this workdir, now or later: %s", error)
            return None
        taps = [tap for tap in TAPS if tap in weights.available_taps]
        if not taps:
            LOGGER.warning(
                "No KID is computed: the weights end before the layer of %d features.", min(TAPS)
            )
            return None
        return KernelDistance(
            FeatureExtractor(weights, taps[:1]),
            self._test_images,
            f"{pathlib.Path(data.name).name}-test",
            directory / "inception" / "reference",
        )

    def _read_curves(self, name: str, metric: str) -> list[Curve]:
        """Reads the curve [(step, value), ...] of each seed whose training has begun."""
        by_seed = [read_metrics(self._run_dir(name, seed)) for seed in self._settings.seeds]
        curves = [[(r["step"], r[metric]) for r in records if metric in r] for records in by_seed]
        return [curve for curve in curves if curve]


def _training_record(run_dir: pathlib.Path) -> dict[str, float | None]:
    """Reads skipped updates and gradient norms of the last record; None if not finite."""
    records = [r for r in read_metrics(run_dir) if "train/grad_norm" in r]
    names = ("skipped_updates", "grad_norm", "grad_norm_max") if records else ()
    values = {name: records[-1][f"train/{name}"] for name in names}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file atomically, because another process may read or write it at the same time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def load(
    config_file: str | pathlib.Path,
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    inception_weights: str | None = None,
) -> Ablation:
    """Loads the ablation that a file in configs/ablation/ describes.

    Args:
      config_file: Python file with `get_config()` and `get_groups()`.
      workdir: directory of the runs and the table.
      data_dir: directory of the datasets; None: the one in the file.
      inception_weights: file of the Inception weights, as for `Ablation`.

    Raises:
      InputError: there is no such file, it lacks a function, or its settings break a rule.
    """
    module = configuration.load_module(
        config_file, ("get_config", "get_groups"), "configs/ablation/fashion_mnist.py"
    )
    settings = module.get_config()
    if data_dir is not None:
        settings.base.data.dir = data_dir
    return Ablation(settings, module.get_groups(), workdir, inception_weights)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="vae_jax.studies.ablation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", required=True, help="a file such as configs/ablation/NAME.py")
    parser.add_argument("--workdir", required=True, help="directory of the runs and the table")
    parser.add_argument("--data_dir", help="dataset directory, if not the one in the config")
    parser.add_argument(
        "--inception_weights", help="file of the Inception weights: .pth, .tgz, .pb or .npz"
    )
    args = parser.parse_args(arguments)
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.studies.ablation", args.workdir):
        stopped_by = load(args.config, args.workdir, args.data_dir, args.inception_weights).run()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    print(f"{args.workdir}/ablation.md, ablation.png, ablation.json")


if __name__ == "__main__":
    main()
