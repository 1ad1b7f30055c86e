"""Compares our model with those of pythae: same images, training time and metrics.

    python -m benchmarks.peers                             # Fashion-MNIST; or: make bench-peers
    python -m benchmarks.peers --models=vae,rae_l2 --minutes=60 \
        --vae_config=configs/cifar10_cpu.py --prior_config=configs/cifar10_cpu_prior.py \
        --workdir=workdir/bench_peers_cifar10/ours --output=workdir/bench_peers_cifar10

Trains the models that are not trained yet (ours with train.py in two runs, one for the VAE and one
for the prior), then compares samples and reconstructions in table.json, table.md, samples.png and
reconstructions.png. Repeat the command to continue after a stop. Several processes, each on CPUs of
its own (`taskset -c 0 …`), share the training, and the last one measures.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from benchmarks import pythae_models
from vae_jax import config as configuration
from vae_jax import data, evaluation, experiment, inference
from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.metrics import inception_weights, reconstruction
from vae_jax.metrics.features import FeatureExtractor, FeatureSet
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures
from vae_jax.recording.tables import Table
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError, lock_workdir

LOGGER = logging.getLogger("benchmarks.peers")
REPOSITORY = pathlib.Path(__file__).parents[1]
FIT_FILE, DONE_FILE, INFO_FILE = "fit.json", "done", "info.json"
FILE_NAME = str.maketrans({" ": "_", ",": "", "+": "and"})
OURS, FLOOR = "vae_jax", "real training images: the floor"
# The row's label, the trained model and its sampler.
PEERS = {
    "pythae VAE, N(0, I)": ("vae", "normal"),
    "pythae VAE + mixture of 10": ("vae", "gmm"),
    "pythae VAE + second stage": ("vae", "two_stage"),
    "pythae RAE-L2 + mixture of 10": ("rae_l2", "gmm"),
    "pythae VAMP": ("vamp", "vamp"),
}
SAMPLERS = tuple(dict.fromkeys(sampler for _, sampler in PEERS.values()))
NUM_SEEDS = 3  # for the samples of the two rows that the comparison rests on
NUM_SHOWN = 20
WAITING_SECONDS = 10.0  # between checks for models that other processes train


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings from the command line.

    Attributes:
      workdir: workdir of our final model.
      vae_workdir: workdir of its VAE.
      directory: directory for the peers and the results.
      vae_config, prior_config: configuration files of our two runs.
      models: names of the pythae models to compare with.
      minutes: training time of each peer.
      num_samples: number of samples in each row, and largest number of test images.
      data_dir: directory of the datasets.
      inception_weights: weights file; None looks for one below `data_dir` or downloads it.
      mirror: also train the peers on the mirrored images; for a run of ours that flips images.
      samplers: names of the peers' samplers.
    """

    workdir: pathlib.Path
    vae_workdir: pathlib.Path
    directory: pathlib.Path
    vae_config: str
    prior_config: str
    models: tuple[str, ...]
    minutes: float
    num_samples: int
    data_dir: str
    inception_weights: str | None
    mirror: bool = False
    samplers: tuple[str, ...] = SAMPLERS

    def __post_init__(self):
        unknown = set(self.models) - set(pythae_models.MODELS)
        if unknown or not self.models:
            raise InputError(
                f"--models={','.join(self.models)} must name at least one of "
                f"{', '.join(pythae_models.MODELS)}."
            )
        if set(self.samplers) - set(SAMPLERS) or not self.peers:
            raise InputError(
                f"--samplers={','.join(self.samplers)} must name some of {', '.join(SAMPLERS)}, "
                f"at least one of them for a model in --models={','.join(self.models)}."
            )

    @property
    def peers(self) -> dict[str, tuple[str, str]]:
        """The entries of PEERS that take part in the comparison."""
        return {
            label: (model, sampler)
            for label, (model, sampler) in PEERS.items()
            if model in self.models and sampler in self.samplers
        }


def train_ours(options: Options) -> None:
    """Starts both runs as a user would, and adds the time of each to fit.json.

    Raises:
      InputError: a workdir holds a run that was not started here, so its time is unknown.
    """
    runs = {
        "vae": (options.vae_config, options.vae_workdir, []),
        "prior": (
            options.prior_config,
            options.workdir,
            [f"--config.vae_workdir={options.vae_workdir}"],
        ),
    }
    path = options.directory / OURS / FIT_FILE
    for _, workdir, _ in runs.values():
        if not path.exists() and (workdir / "checkpoints").exists():
            raise InputError(
                f"--workdir={options.workdir}: {workdir} holds a run that was not started from "
                "here, so its training time is unknown. Give another --workdir."
            )
    for name, (config, workdir, arguments) in runs.items():
        spent = json.loads(path.read_text()) if path.exists() else {}
        command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
        command += [f"--config.data.dir={options.data_dir}", *arguments]
        before = _child_seconds()
        try:
            subprocess.run(command, check=True, cwd=REPOSITORY)
        finally:
            spent[name] = spent.get(name, 0.0) + _child_seconds() - before
            path.write_text(json.dumps(spent) + "\n")


def _child_seconds() -> float:
    if pythae_models.CLOCK is not time.process_time:
        return pythae_models.CLOCK()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train_peer(options: Options, name: str) -> None:
    """Trains one of pythae's models."""
    validation = experiment.load_split(_data_config(options), "validation").take(slice(None))
    seconds = 60.0 * options.minutes
    pythae_models.train(name, _peers_images(options), validation, seconds, options.directory / name)


def _peers_images(options: Options) -> np.ndarray:
    """Returns the images that peers and their samplers are trained on, uint8 [N, H, W, C]."""
    images = experiment.load_split(_data_config(options), "train").take(slice(None))
    return np.concatenate([images, images[:, :, ::-1]]) if options.mirror else images


def _data_config(options: Options):
    """Returns our configuration, which defines the splits of the images."""
    config = configuration.load_module(
        options.vae_config, ("get_config",), "configs/fashion_mnist.py"
    ).get_config()
    config.data.dir = options.data_dir
    return config


def train_all(options: Options) -> None:
    """Trains the models that are not trained yet; waits for those of other processes."""
    waiting = [OURS, *options.models]
    while waiting:
        busy = []
        for name in waiting:
            directory = options.directory / name
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with lock_workdir(directory):
                    if not (directory / DONE_FILE).exists():
                        LOGGER.info("training %s", name)
                        if name == OURS:
                            train_ours(options)
                        else:
                            train_peer(options, name)
                        (directory / DONE_FILE).touch()
            except WorkdirBusyError:
                busy.append(name)
        waiting = busy
        if waiting:
            time.sleep(WAITING_SECONDS)


class Ours:
    """Our model with the interface of `pythae_models.Peer`."""

    def __init__(self, options: Options):
        self._vae = inference.load(options.workdir)
        self._vae.config.data.dir = options.data_dir
        self.num_parameters = sum(int(p.size) for p in jax.tree.leaves(self._vae.params))
        self.fit_seconds = 0.0  # the prior is trained in a run of its own

    def sample(self, seed: int, n: int) -> np.ndarray:
        """Returns n means of p(x|z) with z ~ p(z), uint8 [n, H, W, C]."""
        self._vae.config.eval.seed = seed
        return image_sets.sample_means(self._vae, n)[1]

    def reconstruct(self, images: np.ndarray, draw: bool) -> np.ndarray:
        """Returns the means of p(x|z) at E[z|x] or, with `draw`, at z ~ q(z|x)."""
        key = jax.random.key(0) if draw else None
        return figures.to_uint8(self._vae.reconstruct(images, key))


def make_images(options: Options, label: str, test: np.ndarray) -> pathlib.Path:
    """Saves the samples and the reconstructions of `test` for one row; returns the directory."""
    rows = options.directory / f"rows_{options.num_samples}"
    directory = rows / label.translate(FILE_NAME)
    if (directory / INFO_FILE).exists():
        return directory
    LOGGER.info("generating images of %s", label)
    directory.mkdir(parents=True, exist_ok=True)
    if label == OURS:
        model, spent = Ours(options), _read_fit(options, OURS)
        seconds = spent["vae"] + spent["prior"]
    else:
        name, sampler = PEERS[label]
        model = pythae_models.Peer(options.directory / name, sampler, _peers_images(options))
        seconds = _read_fit(options, name)["seconds"]
    for seed in range(NUM_SEEDS):
        np.save(directory / f"samples_{seed}.npy", model.sample(seed, options.num_samples))
    np.save(directory / "reconstructions.npy", model.reconstruct(test, draw=False))
    np.save(directory / "drawn_reconstructions.npy", model.reconstruct(test, draw=True))
    info = {"seconds": seconds + model.fit_seconds, "num_parameters": model.num_parameters}
    (directory / INFO_FILE).write_text(json.dumps(info) + "\n")
    return directory


def _read_fit(options: Options, name: str) -> dict[str, float]:
    return json.loads((options.directory / name / FIT_FILE).read_text())


class Comparison:
    """Measures the images of `make_images` for the rows of the table; stores features on disk."""

    def __init__(self, options: Options, weights: inception_weights.InceptionWeights):
        self._options = options
        vae = inference.load(options.workdir)
        vae.config.data.dir = options.data_dir
        test = image_sets.real_split(vae, "test", options.num_samples)
        self._test = test.take(slice(None))
        bounds = evaluation.evaluate_bounds(vae, experiment.load_split(vae.config, "test"))
        # The bound of a density has no bits per dimension.
        self._bits = {name: bounds[name].value for name in ("bits_per_dim",) if name in bounds}
        self._tap = sample_quality.best_tap(weights)
        self._extractor = FeatureExtractor(weights, [self._tap])
        self._real, self._floor = (
            reference_features(
                self._extractor,
                image_sets.real_split(vae, split, options.num_samples).take(slice(None)),
                f"{vae.config.data.name}-{split}",
                pathlib.Path(options.data_dir).expanduser() / "inception" / "reference",
            )
            for split in ("test", "train")
        )

    def write(self) -> None:
        """Measures all rows and writes the table and the pictures."""
        labels = [*self._options.peers, OURS]
        paths = {label: make_images(self._options, label, self._test) for label in labels}
        self._save_pictures(paths)
        rows = {FLOOR: {"samples": self._compare(self._floor)}}
        rows |= {label: self._measure(path) for label, path in paths.items()}
        rows[OURS] |= self._bits
        self._save_table(rows)  # with one seed, in case the rest is interrupted
        best = min(self._options.peers, key=lambda label: rows[label]["samples"]["fid"][0])
        for label in (OURS, best):
            rows[label]["fid_of_seeds"] = [
                self._distances(np.load(paths[label] / f"samples_{seed}.npy"))["fid"][0]
                for seed in range(NUM_SEEDS)
            ]
        self._save_table(rows)

    def _save_table(self, rows: dict[str, dict]) -> None:
        content = {
            "num_images": len(self._test),
            "tap": self._tap,
            "minutes": self._options.minutes,
            "on_cpu": pythae_models.CLOCK is time.process_time,
            "rows": rows,
        }
        directory = self._options.directory
        (directory / "table.json").write_text(json.dumps(content, indent=2) + "\n")
        (directory / "table.md").write_text("\n".join(make_table(content).to_markdown()))

    def _save_pictures(self, paths: dict[str, pathlib.Path]) -> None:
        """Saves random samples and reconstructions of the first test images.

        The samples are chosen at random because a mixture returns them component by component.
        """
        chosen = np.random.default_rng(0).choice(len(self._test), NUM_SHOWN, replace=False)
        shown = {label: np.load(path / "samples_0.npy")[chosen] for label, path in paths.items()}
        figures.save_labelled_rows(self._options.directory / "samples.png", shown)
        shown = {"test images": self._test[:NUM_SHOWN]}
        for label, path in paths.items():
            shown[label] = np.load(path / "reconstructions.npy")[:NUM_SHOWN]
        figures.save_labelled_rows(self._options.directory / "reconstructions.png", shown)

    def _measure(self, path: pathlib.Path) -> dict[str, object]:
        """Returns all metrics of one row."""
        at_mean = np.load(path / "reconstructions.npy")
        x, y = (images.astype(np.float32) / 255.0 for images in (self._test, at_mean))
        psnr = np.asarray(reconstruction.psnr(x, y))
        return json.loads((path / INFO_FILE).read_text()) | {
            "samples": self._distances(np.load(path / "samples_0.npy")),
            "reconstructions": self._distances(np.load(path / "drawn_reconstructions.npy")),
            "psnr": [float(psnr.mean()), float(psnr.std() / np.sqrt(len(psnr)))],
            "ssim": float(np.mean(reconstruction.ssim(x, y))),
        }

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
    samples = row["samples"]
    sample_cells = [
        _with_seeds(samples["fid"][0], row.get("fid_of_seeds")),
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


def _with_seeds(value: float, seed_values: list[float] | None) -> str:
    """Formats the value, '0.123', or the mean and standard deviation over several seeds."""
    if seed_values is None:
        return f"{value:.3f}"
    return f"{np.mean(seed_values):.4f} ± {np.std(seed_values, ddof=1):.4f}"


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
        train_all(options)
    Comparison(options, weights).write()
    print((options.directory / "table.md").read_text())


if __name__ == "__main__":
    main()
