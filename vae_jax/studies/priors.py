"""Fits several priors to one frozen VAE, and compares their bounds and samples.

    python -m vae_jax.studies.priors --config=configs/fashion_mnist_prior.py \\
        --workdir=workdir/fashion_mnist_grid

The file that `--config` names defines `get_config(name)`, which returns the configuration for each
name in `--priors`. Each prior is trained in the directory priors/NAME of the VAE's workdir, as
train.py would, and the directory priors receives table.md, table.json and samples.png. Run the same
command again to continue after a stop; several processes with the same command share the fits, and
the last one writes the table.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import checkpoints, evaluation, experiment, inference, priors, training
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError
from vae_jax.training import frozen_vae

# Not __name__, which is __main__ when this module is run as a command.
LOGGER = logging.getLogger("vae_jax.studies.priors")

DIRECTORY, FIT_FILE = "priors", "fit.json"
NUM_SHOWN = 20  # samples of each prior in the picture
AGGREGATE = "decoded aggregate posterior"


@dataclasses.dataclass(frozen=True)
class Row:
    """A prior at a temperature, which is one row of the table.

    Attributes:
      name: name of the prior's configuration; no two priors in the table share one.
      temperature: temperature of its samples.
      workdir: directory of its run; that of the VAE for the prior that was trained with the VAE.
    """

    name: str
    temperature: float
    workdir: pathlib.Path

    @property
    def label(self) -> str:
        """Name of the row in the table."""
        tempered = "" if self.temperature == 1.0 else f", temperature {self.temperature:g}"
        return f"{self.name}{tempered}"


def fit(config: ConfigDict, workdir: pathlib.Path) -> int | None:
    """Trains one prior as train.py does, and adds the seconds that it took to fit.json.

    Returns:
      None if the training is complete, or the number of the signal that stopped it.

    Raises:
      WorkdirBusyError: another process trains this prior.
    """
    num_steps = frozen_vae.complete_config(config).train.num_steps
    if num_steps in checkpoints.Checkpoints(workdir).steps():
        return None
    workdir.mkdir(parents=True, exist_ok=True)
    path, start = workdir / FIT_FILE, time.perf_counter()
    try:
        return training.train_and_evaluate(config, workdir, evaluation.validate)
    finally:
        before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        path.write_text(json.dumps({"seconds": before + time.perf_counter() - start}) + "\n")


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
        self._data_dir = data_dir or configuration.load(workdir).data.dir
        self._configs = {name: self._complete(get_config(name)) for name in names}
        own_prior = configuration.load(workdir).prior.name
        fitted = [Row(name, 1.0, self._directory / name) for name in names]
        own_name = f"{own_prior}, trained with the VAE" if own_prior in names else own_prior
        self.rows = [Row(own_name, 1.0, workdir), *fitted]
        self.rows += [Row(name, value, self._directory / name) for name, value in tempered]
        self._tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self._tap])

    def _complete(self, config: ConfigDict) -> ConfigDict:
        config.vae_workdir, config.data.dir = str(self._workdir), self._data_dir
        return config

    def fit_all(self) -> int | None:
        """Fits the priors that are not fitted yet.

        Returns:
          The number of the signal that stopped it, or None.
        """
        waiting = dict(self._configs)
        while waiting:
            busy = {}
            for name, config in waiting.items():
                try:
                    stopped_by = fit(config, self._directory / name)
                except WorkdirBusyError:
                    busy[name] = config
                    continue
                if stopped_by is not None:
                    return stopped_by
            waiting = busy
            if waiting:
                LOGGER.info("Waiting for other processes, which fit %s.", ", ".join(waiting))
                time.sleep(10.0)
        return None

    def write(self) -> None:
        """Evaluates all rows, and writes table.md, table.json and samples.png."""
        vae = self._load(self._workdir)
        key = jax.random.key(vae.config.eval.seed)
        test = image_sets.real_split(vae, "test", self._num_samples)
        real = self._features(test.take(slice(None)), "test")
        decoded = [
            image_sets.decode_means(
                vae,
                image_sets.aggregate_posterior_codes(
                    vae, self._num_samples, jax.random.split(jax.random.fold_in(key, 10 + i))
                ),
            )
            for i in range(2)
        ]
        first, second = (self._features(images, AGGREGATE) for images in decoded)
        results: dict[str, dict[str, Any]] = {
            AGGREGATE: {"samples": self._distances(second, real, first)}
        }
        shown = {AGGREGATE: decoded[1][:NUM_SHOWN]}
        for row in self.rows:
            results[row.label], images = self._measure(row, real, first)
            if row.temperature == 1.0:
                shown[row.label] = images
        (self._directory / "table.json").write_text(json.dumps(results, indent=2) + "\n")
        (self._directory / "table.md").write_text(self._markdown(results))
        figures.save_labelled_rows(self._directory / "samples.png", shown)

    def _load(self, workdir: pathlib.Path) -> TrainedVAE:
        vae = inference.load(workdir)
        vae.config.data.dir = self._data_dir
        vae.config.eval.num_iw_images = self._num_iw_images
        return vae

    def _measure(
        self, row: Row, real: FeatureSet, aggregate: FeatureSet
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Measures one row.

        Args:
          row: the prior and its temperature.
          real: features of test images.
          aggregate: features of decoded draws of the aggregate posterior.

        Returns:
          (result, samples): the entries of table.json, and samples to show.
        """
        LOGGER.info("Evaluating %s.", row.label)
        vae = self._load(row.workdir)
        result: dict[str, Any] = {}
        if row.temperature == 1.0:  # another temperature has no bound
            split = experiment.load_split(vae.config, "test")
            bounds = evaluation.evaluate_bounds(vae, split)
            result |= {name: dataclasses.asdict(metric) for name, metric in bounds.items()}
            fit_file = row.workdir / FIT_FILE
            if fit_file.exists():
                result["fit_seconds"] = json.loads(fit_file.read_text())["seconds"]
            prior_params = jax.tree.leaves(vae.params.get("prior", {}))
            result["num_parameters"] = int(sum(p.size for p in prior_params))
        block = image_sets.BLOCK_SIZE
        image_sets.sample_means(vae, block, row.temperature)  # compiles, before the clock starts
        start = time.perf_counter()
        _, images = image_sets.sample_means(vae, self._num_samples, row.temperature)
        num_made = -(-self._num_samples // block) * block
        result["samples_per_second"] = num_made / (time.perf_counter() - start)
        result["samples"] = self._distances(self._features(images, row.label), real, aggregate)
        return result, images[:NUM_SHOWN]

    def _features(self, images: np.ndarray, name: str) -> FeatureSet:
        """Extracts features, or reads them from disk if the command was run before."""
        directory = self._directory / "features"
        return reference_features(self._extractor, images, name.replace(" ", "_"), directory)

    def _distances(
        self, fake: FeatureSet, real: FeatureSet, aggregate: FeatureSet
    ) -> dict[str, list[float | None]]:
        """Measures the distances of images to test images and to the aggregate posterior.

        Returns:
          {metric: [value, standard error]}: all metrics against the test images, and FID and KID
          against the decoded aggregate posterior.
        """

        def measure(other: FeatureSet) -> dict[str, list[float | None]]:
            measures = sample_quality.measure_tap(other, fake, self._tap, False, seed=0)
            return {name: [value, error] for name, (value, error, *_) in measures.items()}

        to_aggregate = {name: measure(aggregate).get(name) for name in ("fid", "kid")}
        return measure(real) | {f"{k}_to_aggregate": v for k, v in to_aggregate.items() if v}

    def _markdown(self, results: Mapping[str, Mapping]) -> str:
        suffix = "" if self._tap == sample_quality.FID_TAP else f"_{self._tap}"
        titles = ["prior", "parameters", "bits/dim", "IW bits/dim", "rate, nats"]
        titles += [f"`fid{suffix}` to test", "to aggregate", f"1000 `kid{suffix}`"]
        titles += ["precision", "recall", "fit, min", "samples/s"]
        lines = [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
        lines += [f"| {' | '.join([label, *_cells(row)])} |" for label, row in results.items()]
        protocol = (
            f"VAE {self._workdir}, its parameters frozen. bits/dim on all test images (one draw "
            f"each), IW on {self._num_iw_images}; for `diffusion` log p(z) is only bounded. "
            f"Distances: means of p(x|z), {self._num_samples:,} images of each kind, to as many "
            f"test images and to as many decoded draws of the aggregate posterior (the first row "
            f"is a second set of such draws); {self._tap} Inception features, pytorch-fid's "
            "preprocessing. A temperature other than 1 is another model and has no bound. "
            "fit: wall time of the training with its validations. samples/s: drawing z and "
            f"decoding, in blocks of {image_sets.BLOCK_SIZE}."
        )
        return "\n".join([*lines, "", protocol, ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a row of the table, without its label."""
    samples = row["samples"]

    def bound(name: str, digits: int) -> str:
        return f"{row[name]['value']:.{digits}f}" if name in row else ""

    def sample(name: str, digits: int, factor: float = 1.0) -> str:
        return f"{factor * samples[name][0]:.{digits}f}" if name in samples else ""

    return [
        f"{row['num_parameters']:,}" if "num_parameters" in row else "",
        bound("bits_per_dim", 4),
        bound("iw_bits_per_dim", 4),
        bound("rate", 1),
        sample("fid", 3),
        sample("fid_to_aggregate", 3),
        sample("kid", 3, 1000.0),
        sample("precision", 2),
        sample("recall", 2),
        f"{row['fit_seconds'] / 60:.1f}" if "fit_seconds" in row else "",
        f"{row['samples_per_second']:.0f}" if "samples_per_second" in row else "",
    ]


def _parse_tempered(text: str, names: Sequence[str]) -> list[tuple[str, float]]:
    """Parses 'flow:0.8,diffusion:0.9' into [('flow', 0.8), ('diffusion', 0.9)].

    Raises:
      InputError: a part is not a known name with a number.
    """
    rows = []
    for part in filter(None, text.split(",")):
        name, _, value = part.partition(":")
        try:
            rows.append((name, float(value)))
        except ValueError:
            name = ""
        if name not in names:
            raise InputError(
                f"--tempered={part}: must be NAME:TEMPERATURE with a NAME of {', '.join(names)}."
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Runs the command with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="vae_jax.studies.priors", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--config", required=True, help="a file such as configs/fashion_mnist_prior.py"
    )
    parser.add_argument(
        "--workdir", required=True, type=pathlib.Path, help="workdir of a trained VAE"
    )
    names = ",".join(n for n in priors.names() if priors.kind(n).has_parameters)
    parser.add_argument("--priors", default=names, help=f"priors to fit; by default {names}")
    parser.add_argument(
        "--tempered",
        default="",
        help="additional rows at other temperatures, such as flow:0.8,diffusion:0.9",
    )
    parser.add_argument(
        "--num_samples", type=int, default=10_000, help="number of samples of each prior"
    )
    parser.add_argument(
        "--num_iw_images",
        type=int,
        default=1000,
        help="number of test images for the importance-weighted bound",
    )
    parser.add_argument(
        "--data_dir", help="dataset directory, if it has moved since the VAE was trained"
    )
    parser.add_argument(
        "--inception_weights", help="file of the Inception weights: .pth, .tgz, .pb or .npz"
    )
    args = parser.parse_args(arguments)
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.studies.priors", args.workdir):
        names = args.priors.split(",")
        data_dir = args.data_dir or configuration.load(args.workdir).data.dir
        weights = inception_weights.find_or_download(
            args.inception_weights, pathlib.Path(data_dir).expanduser()
        )
        config_module = configuration.load_module(
            args.config, ("get_config",), "configs/fashion_mnist_prior.py"
        )
        comparison = Comparison(
            config_module.get_config,
            args.workdir,
            names,
            _parse_tempered(args.tempered, names),
            args.num_samples,
            args.num_iw_images,
            weights,
            args.data_dir,
        )
        stopped_by = comparison.fit_all()
        if stopped_by is not None:
            sys.exit(128 + stopped_by)
        comparison.write()
    print(f"{args.workdir / DIRECTORY}: table.md, table.json, samples.png")


if __name__ == "__main__":
    main()
