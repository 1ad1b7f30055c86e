"""The models that benchmarks/peers.py compares, ours and those of pythae, and their training."""

import dataclasses
import functools
import pathlib
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from benchmarks import pythae_models
from vae_jax import config as configuration
from vae_jax import experiment, files, inference
from vae_jax.data import Dataset
from vae_jax.errors import InputError
from vae_jax.inference import image_sets
from vae_jax.recording import figures
from vae_jax.studies.engine import Run

REPOSITORY = pathlib.Path(__file__).parents[1]
OURS = "vae_jax"
# The row's label, the trained model and its sampler.
PEERS = {
    "pythae VAE, N(0, I)": ("vae", "normal"),
    "pythae VAE + mixture of 10": ("vae", "gmm"),
    "pythae VAE + second stage": ("vae", "two_stage"),
    "pythae RAE-L2 + mixture of 10": ("rae_l2", "gmm"),
    "pythae VAMP": ("vamp", "vamp"),
}
SAMPLERS = tuple(dict.fromkeys(sampler for _, sampler in PEERS.values()))


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


def train_ours(options: Options) -> dict[str, float] | int:
    """Starts both runs as a user would, and adds the time of each to fit.json.

    Returns:
      {"seconds": time of both}, or the number of the signal that stopped one of them.

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
    path = options.directory / OURS / "fit.json"
    for _, workdir, _ in runs.values():
        if not path.exists() and (workdir / "checkpoints").exists():
            raise InputError(
                f"--workdir={options.workdir}: {workdir} holds a run that was not started from "
                "here, so its training time is unknown. Give another --workdir."
            )
    spent = files.read_json(path) if path.exists() else {}
    for name, (config, workdir, arguments) in runs.items():
        command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
        command += [f"--config.data.dir={options.data_dir}", *arguments]
        before = _child_seconds()
        try:
            finished = subprocess.run(command, check=False, cwd=REPOSITORY)
        finally:
            spent[name] = spent.get(name, 0.0) + _child_seconds() - before
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, spent)
        if finished.returncode > 128:  # train.py was stopped by this signal, and saved its state
            return finished.returncode - 128
        finished.check_returncode()
    return {"seconds": spent["vae"] + spent["prior"]}


def _child_seconds() -> float:
    if pythae_models.CLOCK is not time.process_time:
        return pythae_models.CLOCK()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train_peer(options: Options, name: str) -> dict[str, float]:
    """Trains one of pythae's models; returns its seconds and epochs."""
    validation = _dataset(options).split("validation").take(slice(None))
    seconds = 60.0 * options.minutes
    directory = options.directory / name
    return pythae_models.train(name, peers_images(options), validation, seconds, directory)


def peers_images(options: Options) -> np.ndarray:
    """Returns the images that peers and their samplers are trained on, uint8 [N, H, W, C]."""
    images = _dataset(options).split("train").take(slice(None))
    return np.concatenate([images, images[:, :, ::-1]]) if options.mirror else images


def _dataset(options: Options) -> Dataset:
    """Returns the dataset of our configuration, which defines the splits."""
    config = configuration.load_module(
        options.vae_config, ("get_config",), "configs/fashion_mnist.py"
    ).get_config()
    return experiment.create_dataset(
        configuration.with_changes(config, {"data.dir": options.data_dir})
    )


def training_runs(options: Options) -> dict[str, Run]:
    """Returns the run of each model, by its name."""
    works = {OURS: functools.partial(train_ours, options)}
    works |= {name: functools.partial(train_peer, options, name) for name in options.models}
    return {n: Run(options.directory / n, f"training of {n}", work) for n, work in works.items()}


class Ours:
    """Our model with the interface of `pythae_models.Peer`."""

    def __init__(self, options: Options):
        self._vae = inference.load(options.workdir, data_dir=options.data_dir)
        self.num_parameters = sum(int(p.size) for p in jax.tree.leaves(self._vae.params))
        self.fit_seconds = 0.0  # the prior is trained in a run of its own

    def sample(self, seed: int, n: int) -> np.ndarray:
        """Returns n means of p(x|z) with z ~ p(z), uint8 [n, H, W, C]."""
        return image_sets.sample_means(self._vae, n, seed=seed)[1]

    def reconstruct(self, images: np.ndarray, draw: bool) -> np.ndarray:
        """Returns the means of p(x|z) at E[z|x] or, with `draw`, at z ~ q(z|x)."""
        key = jax.random.key(0) if draw else None
        return figures.to_uint8(self._vae.reconstruct(images, key))
