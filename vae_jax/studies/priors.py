"""Fits every prior to one frozen VAE and compares their bounds and samples.

    python -m vae_jax.priors.compare --config=configs/fashion_mnist_prior.py \
        --workdir=workdir/fashion_mnist_grid

The file of `--config` has `get_config(name)`: the configuration for each name of `--priors`. Each
is trained in priors/NAME/ of the VAE's workdir, as train.py would, and priors/ receives table.md,
table.json and samples.png. The same command again goes on where it was stopped; given in several
processes at a time, it shares the fits among them, and the last one writes the table.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import checkpoints, evaluation, experiment, inference, training
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.reference import reference_features
from vae_jax.priors.creation import PRIORS
from vae_jax.recording import figures
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError
from vae_jax.training import frozen_vae

LOGGER = logging.getLogger("vae_jax.studies.priors")  # __name__ is __main__ as a command

DIRECTORY, FIT_FILE = "priors", "fit.json"
NUM_SHOWN = 20  # samples of each prior, at temperature 1, in the picture
AGGREGATE = "decoded aggregate posterior"


@dataclasses.dataclass(frozen=True)
class Row:
    """A prior at a temperature.

    Attributes:
      name: of the prior's configuration; unlike that of any other prior in the table.
      temperature: of its samples.
      workdir: of its run; that of the VAE for the prior it was trained with.
    """

    name: str
    temperature: float
    workdir: pathlib.Path

    @property
    def label(self) -> str:
        tempered = "" if self.temperature == 1.0 else f", temperature {self.temperature:g}"
        return f"{self.name}{tempered}"


def fit(config: ConfigDict, workdir: pathlib.Path) -> int | None:
    """Trains one prior, as train.py does; adds the seconds it took to fit.json.

    Returns:
      None where it is complete, or the number of the signal that stopped it.

    Raises:
      WorkdirBusyError: another process is at it.
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
    """All priors on the VAE of `workdir`.

    Args:
      get_config: name -> configuration of a prior's training.
      workdir: of the VAE.
      names: what is fitted.
      tempered: (name, temperature) of further rows.
      num_samples: of each prior, and of test images.
      num_iw_images: test images for the importance-weighted bound.
      weights: of the Inception network.
      data_dir: where datasets lie, if not where the VAE's training found them.

    Raises:
      ValueError: the weights end before the features that distances are of.
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
    ):
        self._workdir, self._directory = workdir, workdir / DIRECTORY
        self._num_samples, self._num_iw_images = num_samples, num_iw_images
        self._data_dir = data_dir or configuration.load(workdir).data.dir
        self._configs = {name: self._complete(get_config(name)) for name in names}
        own = configuration.load(workdir).prior.name
        fitted = [Row(name, 1.0, self._directory / name) for name in names]
        label = f"{own}, trained with the VAE" if own in names else own
        self.rows = [Row(label, 1.0, workdir), *fitted]
        self.rows += [Row(name, value, self._directory / name) for name, value in tempered]
        self._tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self._tap])

    def _complete(self, config: ConfigDict) -> ConfigDict:
        config.vae_workdir, config.data.dir = str(self._workdir), self._data_dir
        return config

    def fit_all(self) -> int | None:
        """Fits what is not yet fitted; returns the signal that stopped it, or None."""
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
                LOGGER.info("Other processes fit %s.", ", ".join(waiting))
                time.sleep(10.0)
        return None

    def write(self) -> None:
        """Evaluates all rows; writes table.md, table.json and samples.png."""
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
        of_aggregate = {"samples": self._distances(second, real, first)}
        results, shown = {AGGREGATE: of_aggregate}, {AGGREGATE: decoded[1][:NUM_SHOWN]}
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
    ) -> tuple[dict[str, object], np.ndarray]:
        """All that is known of one row, and samples to show."""
        LOGGER.info("evaluating %s", row.label)
        vae = self._load(row.workdir)
        result: dict[str, object] = {}
        if row.temperature == 1.0:  # another temperature has no bound
            split = experiment.load_split(vae.config, "test")
            bounds = evaluation.evaluate_bounds(vae, split)
            result |= {name: dataclasses.asdict(metric) for name, metric in bounds.items()}
            fit_file = row.workdir / FIT_FILE
            if fit_file.exists():
                result["fit_seconds"] = json.loads(fit_file.read_text())["seconds"]
            of_prior = jax.tree.leaves(vae.params.get("prior", {}))
            result["num_parameters"] = int(sum(p.size for p in of_prior))
        block = image_sets.BLOCK_SIZE
        image_sets.sample_means(vae, block, row.temperature)  # compiles
        start = time.perf_counter()
        _, images = image_sets.sample_means(vae, self._num_samples, row.temperature)
        num_made = -(-self._num_samples // block) * block
        result["samples_per_second"] = num_made / (time.perf_counter() - start)
        result["samples"] = self._distances(self._features(images, row.label), real, aggregate)
        return result, images[:NUM_SHOWN]

    def _features(self, images: np.ndarray, name: str) -> FeatureSet:
        """Kept on disk, so that a second call of the command extracts nothing twice."""
        directory = self._directory / "features"
        return reference_features(self._extractor, images, name.replace(" ", "_"), directory)

    def _distances(
        self, fake: FeatureSet, real: FeatureSet, aggregate: FeatureSet
    ) -> dict[str, list[float | None]]:
        """{metric: [value, standard error]} against test, and of FID against the aggregate."""

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
            f"each), IW on {self._num_iw_images}; `diffusion` has a bound on log p(z) only. "
            f"Distances: means of p(x|z), {self._num_samples:,} images of each kind, to as many "
            f"test images and to as many decoded draws of the aggregate posterior, of which the "
            f"first row is another set; {self._tap} Inception features, pytorch-fid's "
            "preprocessing. A temperature other than 1 is another model and has no bound. "
            "fit: wall time of the training with its validations. samples/s: drawing z and "
            f"decoding, in blocks of {image_sets.BLOCK_SIZE}."
        )
        return "\n".join([*lines, "", protocol, ""])


def _cells(row: Mapping) -> list[str]:
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
    """'flow:0.8,diffusion:0.9' -> [('flow', 0.8), ('diffusion', 0.9)]."""
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
    parser = argparse.ArgumentParser(prog="vae_jax.studies.priors", description=__doc__)
    parser.add_argument("--config", required=True, help="file, as configs/fashion_mnist_prior.py")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a trained VAE")
    names = ",".join(PRIORS[1:])
    parser.add_argument("--priors", default=names, help=f"what is fitted; by default {names}")
    parser.add_argument("--tempered", default="", help="further rows: flow:0.8,diffusion:0.9")
    parser.add_argument("--num_samples", type=int, default=10_000, help="of each prior")
    parser.add_argument("--num_iw_images", type=int, default=1000)
    parser.add_argument("--data_dir", help="where datasets lie, if not where training found them")
    parser.add_argument("--inception_weights", help="file: .pth, .tgz, .pb or .npz")
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
