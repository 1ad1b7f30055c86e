"""Compares our model with those of pythae: same images, training time and metrics.

    python -m benchmarks.peers                             # Fashion-MNIST; or: make bench-peers
    python -m benchmarks.peers --models=vae,rae_l2 --minutes=60 \
        --vae_config=configs/cifar10_cpu.py --prior_config=configs/cifar10_cpu_prior.py \
        --workdir=workdir/bench_peers_cifar10/ours --output=workdir/bench_peers_cifar10

Trains the models that are not trained yet (ours with train.py in two runs, one for the VAE and one
for the prior), then compares samples and reconstructions in table.json, table.md, samples.png and
reconstructions.png. Repeat the command to continue after a stop. Several processes, each on CPUs of
its own (`taskset -c 0 …`), share the training and the measurements.
"""

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Mapping

import numpy as np

from benchmarks import pythae_models
from benchmarks.peers_models import (
    OURS,
    PEERS,
    SAMPLERS,
    Options,
    Ours,
    peers_images,
    training_runs,
)
from vae_jax import data, evaluation, files, inference
from vae_jax.evaluation import sample_quality
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import inception_weights, reconstruction
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures
from vae_jax.recording.tables import Table
from vae_jax.runtime import process
from vae_jax.studies import engine
from vae_jax.studies.engine import Run, mean_and_deviation

FLOOR = "real training images: the floor"
NUM_SEEDS = 3  # for the samples of the two rows that the comparison rests on
NUM_SHOWN = 20
FILE_NAME = str.maketrans({" ": "_", ",": "", ":": "", "+": "and"})


class Comparison:
    """Makes and measures the images of the rows of the table; stores features on disk."""

    def __init__(self, options: Options, weights: inception_weights.InceptionWeights):
        self._options = options
        self._tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self._tap])
        directory = options.directory / f"rows_{options.num_samples}_{self._tap}"
        self._rows = {
            label: Run(
                directory / label.translate(FILE_NAME),
                label,
                functools.partial(self._measure, label),
            )
            for label in (FLOOR, *options.peers, OURS)
        }

    def run(self) -> None:
        """Measures all rows, then two of them with several seeds, and writes the results."""
        engine.run_all(list(self._rows.values()), self._save)
        rows = {label: run.result() for label, run in self._rows.items()}
        best = min(self._options.peers, key=lambda label: rows[label]["samples"]["fid"][0])
        seeds = [
            Run(
                self._rows[label].directory / "seeds",
                label,
                functools.partial(self._measure_seeds, label),
            )
            for label in (OURS, best)
        ]
        engine.run_all(
            seeds,
            lambda found: self._save(
                rows | {label: rows[label] | {"fid_of_seeds": found[label]} for label in found}
            ),
        )

    def _save(self, rows: Mapping[str, dict]) -> None:
        """Writes the table and the pictures: random samples, and the first reconstructions.

        The samples are chosen at random because a mixture returns them component by component.
        """
        content = {
            "num_images": len(self._test),
            "tap": self._tap,
            "minutes": self._options.minutes,
            "on_cpu": pythae_models.CLOCK is time.process_time,
            "rows": rows,
        }
        directory = self._options.directory
        files.write_json(directory / "table.json", content)
        files.write_text(directory / "table.md", "\n".join(make_table(content).to_markdown()))
        chosen = np.random.default_rng(0).choice(len(self._test), NUM_SHOWN, replace=False)
        samples, reconstructions = {}, {"test images": self._test[:NUM_SHOWN]}
        for label in (label for label in rows if label != FLOOR):
            path = self._rows[label].directory
            samples[label] = np.load(path / "samples_0.npy")[chosen]
            reconstructions[label] = np.load(path / "reconstructions.npy")[:NUM_SHOWN]
        for name, shown in (("samples", samples), ("reconstructions", reconstructions)):
            if samples:
                figures.save_labelled_rows(directory / f"{name}.png", shown)

    @functools.cached_property
    def _vae(self) -> TrainedVAE:
        return inference.load(self._options.workdir, data_dir=self._options.data_dir)

    @functools.cached_property
    def _test(self) -> np.ndarray:
        return self._real_images("test")

    @functools.cached_property
    def _real(self) -> FeatureSet:
        return self._real_features("test")

    def _real_images(self, split: str) -> np.ndarray:
        return image_sets.real_split(self._vae, split, self._options.num_samples).take(slice(None))

    def _real_features(self, split: str) -> FeatureSet:
        return reference_features(
            self._extractor,
            self._real_images(split),
            f"{self._vae.experiment.dataset.name}-{split}",
            pathlib.Path(self._options.data_dir).expanduser() / "inception" / "reference",
        )

    def _measure(self, label: str) -> dict[str, object]:
        """Returns all metrics of one row, after making its images."""
        if label == FLOOR:
            return {"samples": self._compare(self._real_features("train"))}
        path = self._rows[label].directory
        result = self._make_images(label, path)
        at_mean = np.load(path / "reconstructions.npy")
        x, y = (images.astype(np.float32) / 255.0 for images in (self._test, at_mean))
        psnr = np.asarray(reconstruction.psnr(x, y))
        result |= {
            "samples": self._distances(np.load(path / "samples_0.npy")),
            "reconstructions": self._distances(np.load(path / "drawn_reconstructions.npy")),
            "psnr": [float(psnr.mean()), float(psnr.std() / np.sqrt(len(psnr)))],
            "ssim": float(np.mean(reconstruction.ssim(x, y))),
        }
        if label == OURS:
            split = self._vae.experiment.dataset.split("test")
            bounds = evaluation.evaluate_bounds(self._vae, split)
            # The bound of a density has no bits per dimension.
            names = [name for name in ("bits_per_dim",) if name in bounds]
            result |= {name: bounds[name].value for name in names}
        return result

    def _make_images(self, label: str, path: pathlib.Path) -> dict[str, object]:
        """Saves samples and reconstructions; returns training time in seconds and model size."""
        options = self._options
        name, sampler = PEERS.get(label, (OURS, ""))
        if label == OURS:
            model = Ours(options)
        else:
            model = pythae_models.Peer(options.directory / name, sampler, peers_images(options))
        for seed in range(NUM_SEEDS):
            np.save(path / f"samples_{seed}.npy", model.sample(seed, options.num_samples))
        np.save(path / "reconstructions.npy", model.reconstruct(self._test, draw=False))
        np.save(path / "drawn_reconstructions.npy", model.reconstruct(self._test, draw=True))
        seconds = training_runs(options)[name].result()["seconds"] + model.fit_seconds
        return {"seconds": seconds, "num_parameters": model.num_parameters}

    def _measure_seeds(self, label: str) -> list[float | None]:
        """Returns the distance of the samples of each seed."""
        path = self._rows[label].directory
        samples = [np.load(path / f"samples_{seed}.npy") for seed in range(NUM_SEEDS)]
        return [self._distances(images)["fid"][0] for images in samples]

    def _distances(self, images: np.ndarray) -> dict[str, list[float | None]]:
        """Returns {metric: [value, standard error]} of images compared with the test images."""
        directory = self._options.directory / "features"
        return self._compare(reference_features(self._extractor, images, "images", directory))

    def _compare(self, fake: FeatureSet) -> dict[str, list[float | None]]:
        measures = sample_quality.measure_tap(self._real, fake, self._tap, False, seed=0)
        return {name: [value, error] for name, (value, error, *_) in measures.items()}


def make_table(content: dict) -> Table:
    """Makes the table from the content of table.json."""
    suffix = "" if content["tap"] == sample_quality.FID_TAP else f"_{content['tap']}"
    titles = [
        "",
        "parameters",
        "CPU min" if content["on_cpu"] else "GPU min",
        f"`fid{suffix}` of samples",
        f"1000 `kid{suffix}`",
    ]
    titles += ["precision, recall", f"`fid{suffix}` of reconstructions", "PSNR, dB", "bits/dim"]
    return Table(titles, [[label, *_cells(row)] for label, row in content["rows"].items()])


def _cells(row: dict) -> list[str]:
    samples, seeds = row["samples"], row.get("fid_of_seeds")
    sample_cells = [
        mean_and_deviation(seeds, 4) if seeds else f"{samples['fid'][0]:.3f}",
        f"{1000 * samples['kid'][0]:.2f}",
        f"{samples['precision'][0]:.2f}, {samples['recall'][0]:.2f}",
    ]
    if "psnr" not in row:
        return ["", "", *sample_cells, "", "", ""]
    return [
        f"{row['num_parameters'] / 1e6:.2f} M",
        f"{row['seconds'] / 60:.1f}",
        *sample_cells,
        f"{row['reconstructions']['fid'][0]:.3f}",
        f"{row['psnr'][0]:.2f}",
        f"{row['bits_per_dim']:.3f}" if "bits_per_dim" in row else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, default="workdir/bench_peers/fashion_mnist", help="our run")
    add("--vae_workdir", type=pathlib.Path, help="our VAE; default: WORKDIR_vae")
    add("--output", type=pathlib.Path, default="workdir/bench_peers", help="peers and results")
    add("--vae_config", default="configs/fashion_mnist.py", help="our VAE")
    add("--prior_config", default="configs/fashion_mnist_diffusion.py", help="our prior")
    add("--models", default=",".join(pythae_models.MODELS), help="pythae models, comma-separated")
    add("--samplers", default=",".join(SAMPLERS), help="their samplers, comma-separated")
    add("--minutes", type=float, default=30.0, help="training time of a peer (one core)")
    add("--mirror", action="store_true", help="also train peers on mirrored images")
    add("--num_samples", type=int, default=10_000, help="per row; at most as many test images")
    add("--data_dir", default=data.DEFAULT_DATA_DIR, help="dataset directory")
    add("--inception_weights", help="weights file: .pth, .tgz, .pb or .npz")
    args = vars(parser.parse_args())
    args["directory"] = args.pop("output")
    for name in ("models", "samplers"):
        args[name] = tuple(args[name].split(","))
    args["vae_workdir"] = args["vae_workdir"] or args["workdir"].with_name(
        f"{args['workdir'].name}_vae"
    )
    process.log_to_stderr()
    with process.exit_on_user_error("benchmarks.peers"):
        options = Options(**args)
        weights = inception_weights.find_or_download(
            options.inception_weights, pathlib.Path(options.data_dir).expanduser()
        )
        sample_quality.check_num_samples(options.num_samples, weights)
        stopped_by = engine.run_all(list(training_runs(options).values()), lambda results: None)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    Comparison(options, weights).run()
    print(files.read_text(options.directory / "table.md"))


if __name__ == "__main__":
    main()
