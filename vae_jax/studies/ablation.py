"""Trains variants of one base configuration, each with several seeds, and compares them.

    python -m vae_jax.studies.ablation --config=configs/ablation/fashion_mnist.py \\
        --workdir=workdir/ablation

The file that `--config` names defines two functions. `get_config()` returns base, seeds,
num_test_images, num_samples, sample_metric_groups and panels. `get_groups()` returns
{group: {variant: changes to the base by dotted key}}. Variants with the same configuration share
their runs. Run the same command again to continue after a stop; several processes with the same
command share the runs, and each ends when all are finished.
"""

import argparse
import functools
import logging
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import checkpoints, evaluation, experiment, files, inference, training
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.inference import TrainedVAE
from vae_jax.recording import figures
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import process
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.settings import standard_settings
from vae_jax.studies import engine
from vae_jax.studies.ablation_metrics import (
    KernelDistance,
    create_kernel_distance,
    measure,
    training_record,
)
from vae_jax.studies.ablation_table import (
    Curve,
    check_groups_and_panels,
    make_panels,
    to_json,
    to_markdown,
)
from vae_jax.studies.ablation_variants import Groups, changed, make_rows
from vae_jax.studies.engine import Run

# Not __name__, which is __main__ when this module is run as a command.
LOGGER = logging.getLogger("vae_jax.studies.ablation")


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
        check_groups_and_panels(settings, groups)
        self._configs = {row.run: row.config for row in self.rows}
        self._with_samples = {
            row.run for row in self.rows if row.group in settings.sample_metric_groups
        }
        self._runs = {
            (name, seed): Run(
                self._workdir / "runs" / name / f"seed_{seed}",
                f"{name}, seed {seed}",
                functools.partial(self._train_and_measure, name, seed),
            )
            for seed in settings.seeds
            for name in self._configs
        }

    def run(self) -> int | None:
        """Does all runs that are not finished, and writes the results.

        Returns:
          The number of the signal that stopped it early, or None.

        Raises:
          InputError: a wrong configuration or dataset, or a workdir that holds other runs.
          CheckpointsDamagedError: none of the checkpoints of a run can be read.
        """
        for (name, seed), run in self._runs.items():
            if (result := run.result()) is not None:
                self._check_unchanged(name, seed, result)
        return engine.run_all(list(self._runs.values()), self.write)

    def write(self, finished: Mapping[str, dict]) -> None:
        """Writes ablation.json, ablation.md and ablation.png, and removes finished checkpoints.

        Args:
          finished: {label: result} of the finished runs.
        """
        results: dict[str, dict[int, dict]] = {name: {} for name in self._configs}
        for (name, seed), run in self._runs.items():
            if run.label in finished:
                results[name][seed] = finished[run.label]
                shutil.rmtree(run.directory / checkpoints.DIRECTORY, ignore_errors=True)
        base = self._settings.base
        files.write_json(self._workdir / "ablation.json", to_json(base, self.rows, results))
        markdown = to_markdown(self._settings, self.rows, results, self._with_samples)
        files.write_text(self._workdir / "ablation.md", markdown)
        panels = make_panels(self._settings, self.rows, results, self._read_curves)
        figures.save_ablation(self._workdir / "ablation.png", panels)

    def _config(self, name: str, seed: int) -> ConfigDict:
        return changed(self._configs[name], {"seed": seed}, name)

    def _protocol(self, name: str) -> dict[str, int]:
        """Returns what the result of a run depends on in addition to its configuration."""
        protocol = {"num_test_images": self._settings.num_test_images}
        if name in self._with_samples:
            protocol["num_samples"] = self._settings.num_samples
        return protocol

    def _check_unchanged(self, name: str, seed: int, result: dict) -> None:
        """Raises an InputError if a finished run was trained or measured with other settings."""
        run_dir = self._runs[name, seed].directory
        image_shape = configuration.load_image_shape(run_dir)
        configuration.check_unchanged(self._config(name, seed), image_shape, run_dir)
        if result["protocol"] != self._protocol(name):
            raise InputError(
                f"{run_dir} was measured with {result['protocol']}, but now it would be "
                f"measured with {self._protocol(name)}: give another --workdir, or the "
                "settings that this one was started with."
            )

    def _train_and_measure(self, name: str, seed: int) -> dict[str, Any] | int:
        """Returns the result of one run, or the number of the signal that stopped its training."""
        config, run_dir = self._config(name, seed), self._runs[name, seed].directory
        images = self._test_images  # before training, because there may be too few
        result = {"run": name, "seed": seed, "protocol": self._protocol(name)}
        try:
            stopped_by = training.train_and_evaluate(config, run_dir, evaluation.validate)
            if stopped_by is not None:
                return stopped_by
            # GPUs would round float32 products to TensorFloat-32.
            with standard_settings(), jax.default_matmul_precision("highest"):
                result |= self._measure(inference.load(run_dir, "latest"), images, name)
        except training.TrainingDivergedError as error:
            LOGGER.warning("%s, seed %d diverged: %s", name, seed, error)
            result["diverged"] = str(error)
        return result | {"training": training_record(run_dir)}

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
        split = experiment.create_dataset(self._settings.base).split("test")
        n = self._settings.num_test_images
        if not 1 <= n <= len(split):
            raise InputError(
                f"num_test_images = {n} must lie between 1 and {len(split)}, the number of test "
                "images."
            )
        return split.shuffled(n)

    @functools.cached_property
    def _kernel_distance(self) -> KernelDistance | None:
        return create_kernel_distance(self._settings.base, self._test_images, self._weights_file)

    def _read_curves(self, name: str, metric: str) -> list[Curve]:
        """Reads the curve [(step, value), ...] of each seed whose training has begun."""
        by_seed = [read_metrics(self._runs[name, seed].directory) for seed in self._settings.seeds]
        curves = [[(r["step"], r[metric]) for r in records if metric in r] for records in by_seed]
        return [curve for curve in curves if curve]


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
        settings = configuration.with_changes(settings, {"base.data.dir": data_dir})
    return Ablation(settings, module.get_groups(), workdir, inception_weights)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="vae_jax.studies.ablation", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--config", required=True, help="a file such as configs/ablation/NAME.py")
    add("--workdir", required=True, help="directory of the runs and the table")
    add("--data_dir", help="dataset directory, if not the one in the config")
    add("--inception_weights", help="file of the Inception weights: .pth, .tgz, .pb or .npz")
    args = parser.parse_args(arguments)
    process.open_standard_streams()
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.studies.ablation", args.workdir):
        process.require_backend()
        workdir = resolve_workdir(args.workdir)
        stopped_by = load(args.config, workdir, args.data_dir, args.inception_weights).run()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    process.show(f"{workdir}/ablation.md, ablation.png, ablation.json")


if __name__ == "__main__":
    process.run_and_exit(main)
