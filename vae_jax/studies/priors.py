"""Fits several priors to one frozen VAE, and compares their bounds and samples.

    python -m vae_jax.studies.priors --config=configs/fashion_mnist_prior.py \\
        --workdir=workdir/fashion_mnist_grid

The file that `--config` names defines `get_config(name)`, which returns the configuration for each
name in `--priors`. Each prior is trained in the directory priors/NAME of the VAE's workdir, as
train.py would, and the directory priors receives table.md, table.json and samples.png. Run the same
command again to continue after a stop; several processes with the same command share the fits and
the measurements, which are kept in directories measured_*: remove these to measure again.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import evaluation, files, inference, priors, training
from vae_jax.checkpoints import CheckpointReader
from vae_jax.files import expand
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import inception_weights
from vae_jax.recording import figures
from vae_jax.runtime import process
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.workdir import check_contents
from vae_jax.studies import engine
from vae_jax.studies.engine import Run
from vae_jax.studies.priors_metrics import Distances
from vae_jax.studies.priors_table import AGGREGATE, Row, describe, make_table, parse_tempered

DIRECTORY, FIT_FILE, SHOWN_FILE = "priors", "fit.json", "samples.npy"
NUM_SHOWN = 20  # samples of each prior in the picture


def fit(config: ConfigDict, workdir: pathlib.Path) -> dict[str, float] | int:
    """Trains one prior as train.py does, and adds the seconds that it took to fit.json.

    Returns:
      {"seconds": time of the whole training}, or the number of the signal that stopped it.

    Raises:
      WorkdirBusyError: another process trains this prior.
    """
    path, start = workdir / FIT_FILE, time.perf_counter()
    spent = files.read_json(path)["seconds"] if path.exists() else 0.0
    if configuration.complete(config).train.num_steps in CheckpointReader(workdir).steps():
        return {"seconds": spent}
    stopped_by = None
    try:
        stopped_by = training.train_and_evaluate(config, workdir, evaluation.validate)
    finally:
        spent += time.perf_counter() - start
        workdir.mkdir(parents=True, exist_ok=True)  # an error may come before the training
        files.write_json(path, {"seconds": spent})
    return {"seconds": spent} if stopped_by is None else stopped_by


class Comparison:
    """Fits and compares priors on the VAE of one workdir.

    Args:
      get_config: function from a name to the configuration that trains this prior.
      workdir: directory of the VAE's run.
      names: names of the priors to fit.
      tempered: (name, temperature) of additional rows.
      num_samples: number of samples of each prior, and of test images they are compared with.
      num_iw_images: number of test images for the importance-weighted bound.
      weights: weights of the Inception network.
      data_dir: dataset directory, if it has moved since the VAE was trained.

    Raises:
      InputError: the weights end before the features that distances need.
    """

    def __init__(
        self,
        get_config: Callable[[str], ConfigDict],
        workdir: pathlib.Path,
        names: Sequence[str],
        tempered: Sequence[tuple[str, float]],
        num_samples: int,
        num_iw_images: int,
        weights: inception_weights.InceptionWeights,
        data_dir: str | None = None,
    ) -> None:
        self._workdir, self._directory = workdir, workdir / DIRECTORY
        self._num_samples, self._num_iw_images = num_samples, num_iw_images
        own = configuration.load(workdir)
        self._data_dir = data_dir
        self._configs = {
            name: configuration.with_changes(
                get_config(name),
                {"vae_workdir": str(workdir), "data.dir": data_dir or own.data.dir},
            )
            for name in names
        }
        self._distances = Distances(
            lambda: self._load(workdir), num_samples, weights, self._directory / "features"
        )
        own_prior = own.prior.name
        fitted = [Row(name, 1.0, self._directory / name) for name in names]
        own_name = f"{own_prior}, trained with the VAE" if own_prior in names else own_prior
        self.rows = [Row(AGGREGATE, 1.0, workdir), Row(own_name, 1.0, workdir), *fitted]
        self.rows += [Row(name, value, self._directory / name) for name, value in tempered]

    def fit_all(self) -> int | None:
        """Fits the priors that are not fitted yet.

        Returns:
          The number of the signal that stopped it, or None.
        """
        fits = []
        for name, config in self._configs.items():
            directory = self._directory / name
            fits.append(Run(directory, f"fit of {name}", functools.partial(fit, config, directory)))
        return engine.run_all(fits, lambda results: None)

    def measure_all(self) -> None:
        """Measures the rows that are not measured yet; writes table.md, table.json, samples.png."""
        runs = [
            Run(self._directory_of(row), row.label, functools.partial(self._measure, row))
            for row in self.rows
        ]
        engine.run_all(runs, self.write)

    def write(self, results: Mapping[str, dict[str, Any]]) -> None:
        """Writes table.md, table.json and samples.png from {label: result} of measured rows."""
        files.write_json(self._directory / "table.json", results)
        note = describe(self._workdir, self._num_samples, self._num_iw_images, self._distances.tap)
        table = make_table(results, self._distances.tap, note)
        files.write_text(self._directory / "table.md", "\n".join(table.to_markdown()))
        shown = {
            row.label: np.load(self._directory_of(row) / SHOWN_FILE)
            for row in self.rows
            if row.label in results and row.temperature == 1.0
        }
        figures.save_labelled_rows(self._directory / "samples.png", shown)

    def _directory_of(self, row: Row) -> pathlib.Path:
        """Returns the directory for what is measured, inside that of the fit."""
        home = self._directory if row.workdir == self._workdir else row.workdir
        measured = f"measured_{self._num_samples}_{self._num_iw_images}_{self._distances.tap}"
        return home / measured / row.label.replace(" ", "_")

    def _load(self, workdir: pathlib.Path) -> TrainedVAE:
        return inference.load(workdir, data_dir=self._data_dir, num_iw_images=self._num_iw_images)

    def _measure(self, row: Row) -> dict[str, Any]:
        """Measures one row and saves some of its samples; returns its entries of table.json."""
        if row.name == AGGREGATE:
            result: dict[str, Any] = {}
            images = self._distances.decoded[1]
        else:
            result, images = self._measure_prior(row)
        result["samples"] = self._distances(images, row.label)
        np.save(self._directory_of(row) / SHOWN_FILE, images[:NUM_SHOWN])
        return result

    def _measure_prior(self, row: Row) -> tuple[dict[str, Any], np.ndarray]:
        """Returns the bounds and the speed of a prior, and samples, uint8 [N, H, W, C]."""
        vae = self._load(row.workdir)
        result: dict[str, Any] = {}
        if row.temperature == 1.0:  # another temperature has no bound
            split = vae.experiment.dataset.split("test")
            bounds = evaluation.evaluate_bounds(vae, split)
            result |= {name: dataclasses.asdict(metric) for name, metric in bounds.items()}
            fit_file = row.workdir / FIT_FILE
            if fit_file.exists():
                result["fit_seconds"] = files.read_json(fit_file)["seconds"]
            prior_params = jax.tree.leaves(vae.params.get("prior", {}))
            result["num_parameters"] = int(sum(p.size for p in prior_params))
        block = image_sets.block_size(vae)
        image_sets.sample_means(vae, block, row.temperature)  # compiles, before the clock starts
        start = time.perf_counter()
        _, images = image_sets.sample_means(vae, self._num_samples, row.temperature)
        num_made = -(-self._num_samples // block) * block
        result["samples_per_second"] = num_made / (time.perf_counter() - start)
        return result, images


def main(arguments: list[str] | None = None) -> None:
    """Runs the command with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="vae_jax.studies.priors", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    names = ",".join(n for n in priors.names() if priors.kind(n).has_parameters)
    add("--config", required=True, help="a file such as configs/fashion_mnist_prior.py")
    add("--workdir", required=True, help="workdir of a trained VAE")
    add("--priors", default=names, help=f"priors to fit; by default {names}")
    add("--tempered", default="", help="rows at other temperatures: flow:0.8,diffusion:0.9")
    add("--num_samples", type=int, default=10_000, help="number of samples of each prior")
    add("--num_iw_images", type=int, default=1000, help="test images for the IW bound")
    add("--data_dir", help="dataset directory, if it has moved since the VAE was trained")
    add("--inception_weights", help="file of the Inception weights: .pth, .tgz, .pb or .npz")
    args = parser.parse_args(arguments)
    process.open_standard_streams()
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.studies.priors", args.workdir):
        process.require_backend()
        args.workdir = resolve_workdir(args.workdir)
        check_contents(args.workdir)
        names = args.priors.split(",")
        data_dir = args.data_dir or configuration.load(args.workdir).data.dir
        weights = inception_weights.find_or_download(
            args.inception_weights, expand("data.dir", data_dir)
        )
        config_module = configuration.load_module(
            args.config, ("get_config",), "configs/fashion_mnist_prior.py"
        )
        comparison = Comparison(
            config_module.get_config,
            args.workdir,
            names,
            parse_tempered(args.tempered, names),
            args.num_samples,
            args.num_iw_images,
            weights,
            args.data_dir,
        )
        stopped_by = comparison.fit_all()
        if stopped_by is not None:
            sys.exit(128 + stopped_by)
        comparison.measure_all()
    process.show(f"{args.workdir / DIRECTORY}: table.md, table.json, samples.png")


if __name__ == "__main__":
    process.run_and_exit(main)
