"""Sample quality over training time: distances at every checkpoint that a run has kept.

    python -m benchmarks.quality_over_time --workdirs=workdir/cifar10,workdir/cifar10_prior \
        --output=workdir/cifar10_quality_over_time

Give the runs in training order: the time of a prior's run continues that of its VAE's run. To keep
every checkpoint, train with a large enough `--config.train.keep_checkpoints`. Writes curve.json,
table.md and curve.png, and stores the features, so that repeating the command is quick.
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from vae_jax import checkpoints, data, files, inference
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures, writers
from vae_jax.recording.tables import Table
from vae_jax.runtime import process

LOGGER = logging.getLogger("benchmarks.quality_over_time")
NUM_SAMPLES = 5000
METRICS = ("fid", "kid", "precision", "recall")


def seconds_of_training(workdir: pathlib.Path, step: int) -> float:
    """Returns the time of the training steps up to `step`, without compilation and evaluations.

    Raises:
      InputError: metrics.jsonl has no record of that step.
    """
    batch_size = configuration.load(workdir).train.batch_size
    records = [r for r in writers.read_metrics(workdir) if "train/images_per_second" in r]
    seconds, last = 0.0, 0
    for record in records:
        if record["step"] > step:
            break
        seconds += (record["step"] - last) * batch_size / record["train/images_per_second"]
        last = record["step"]
    if last != step:
        raise InputError(
            f"{workdir}: metrics.jsonl has no record of step {step}, which has a checkpoint (the "
            f"last record before it is of step {last}). train.log_every_steps must divide "
            "train.checkpoint_every_steps: train with such values."
        )
    return seconds


class Curve:
    """Distances between samples and the test images at each checkpoint of some runs.

    Args:
      workdirs: workdirs of the runs, in training order.
      num_samples: number of means of p(x|z) at each checkpoint, and largest number of test images.
      weights: weights of the Inception network.
      data_dir: directory of the datasets.
      directory: directory for the features.
    """

    def __init__(
        self,
        workdirs: Sequence[pathlib.Path],
        num_samples: int,
        weights: inception_weights.InceptionWeights,
        data_dir: str,
        directory: pathlib.Path,
    ):
        self._workdirs, self._num_samples, self._data_dir = workdirs, num_samples, data_dir
        self._tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self._tap])
        self._features_directory = directory / "features"
        vae = self._load(workdirs[0], "latest")
        self._real = reference_features(
            self._extractor,
            image_sets.real_split(vae, "test", num_samples).take(slice(None)),
            f"{pathlib.Path(vae.experiment.dataset.name).name}-test",
            pathlib.Path(data_dir).expanduser() / "inception" / "reference",
        )

    def _load(self, workdir: pathlib.Path, step: int | str) -> inference.TrainedVAE:
        return inference.load(workdir, step, data_dir=self._data_dir)

    def measure(self) -> dict:
        """Measures all checkpoints; returns the content of curve.json."""
        points, before = [], 0.0
        for workdir in self._workdirs:
            for step in checkpoints.Checkpoints(workdir).steps():
                seconds = before + seconds_of_training(workdir, step)
                LOGGER.info("%s, step %d: minute %.1f", workdir, step, seconds / 60)
                vae = self._load(workdir, step)
                points.append(
                    {
                        "prior": vae.experiment.config["prior.name"],
                        "step": step,
                        "minutes": seconds / 60,
                        **self._distances(vae),
                    }
                )
            before = seconds
        return {"num_images": self._num_samples, "tap": self._tap, "points": points}

    def _distances(self, vae: inference.TrainedVAE) -> dict[str, float]:
        _, images = image_sets.sample_means(vae, self._num_samples)
        features = reference_features(self._extractor, images, "images", self._features_directory)
        measures = sample_quality.measure_tap(self._real, features, self._tap, False, seed=0)
        return {name: measures[name][0] for name in METRICS}


def titles(tap: int) -> dict[str, str]:
    """Returns {metric: its title in table and picture}."""
    suffix = "" if tap == sample_quality.FID_TAP else f"_{tap}"
    return {name: f"{name}{suffix}" for name in METRICS}


def make_table(content: dict) -> Table:
    """Makes the table from the content of curve.json."""
    rows = [
        [p["prior"], f"{p['step']:,}", f"{p['minutes']:.1f}", *(f"{p[m]:.3g}" for m in METRICS)]
        for p in content["points"]
    ]
    return Table(["prior", "step", "minutes", *titles(content["tap"]).values()], rows)


def save_picture(content: dict, path: pathlib.Path) -> None:
    """Draws one panel for each metric, with one line for each prior."""
    priors = dict.fromkeys(point["prior"] for point in content["points"])
    panels = []
    for metric, title in titles(content["tap"]).items():
        lines = {
            prior: np.transpose(
                [(p["minutes"], p[metric]) for p in content["points"] if p["prior"] == prior]
            )
            for prior in priors
        }
        is_distance = metric in ("fid", "kid")
        panels.append(figures.Panel(title, "minutes of training", lines, log_y=is_distance))
    figures.save_panels(path, panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdirs", required=True, help="runs, comma-separated, in training order")
    add("--output", type=pathlib.Path, required=True, help="directory for the results")
    add("--num_samples", type=int, default=NUM_SAMPLES, help="samples at each checkpoint")
    add("--data_dir", default=data.DEFAULT_DATA_DIR, help="dataset directory")
    add("--inception_weights", help="weights file: .pth, .tgz, .pb or .npz")
    args = parser.parse_args()
    process.log_to_stderr()
    workdirs = [pathlib.Path(workdir) for workdir in args.workdirs.split(",")]
    with process.exit_on_user_error("benchmarks.quality_over_time", args.output):
        weights = inception_weights.find_or_download(
            args.inception_weights, pathlib.Path(args.data_dir).expanduser()
        )
        sample_quality.check_num_samples(args.num_samples, weights)
        args.output.mkdir(parents=True, exist_ok=True)
        curve = Curve(workdirs, args.num_samples, weights, args.data_dir, args.output)
        content = curve.measure()
    files.write_json(args.output / "curve.json", content)
    table = "\n".join(make_table(content).to_markdown())
    files.write_text(args.output / "table.md", table)
    save_picture(content, args.output / "curve.png")
    print(table)


if __name__ == "__main__":
    main()
