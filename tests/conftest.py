"""Shared by all tests: two virtual devices, a tiny dataset, a tiny configuration, one trained run.

train.py makes the run once, in a process of its own. Tests must not change it: they copy it first.
"""

import dataclasses
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest
import scipy.ndimage
from ml_collections import ConfigDict

import tests.without_tensorflow.sitecustomize  # noqa: F401
import vae_jax
from configs import default
from tests import processes
from vae_jax import config as configuration
from vae_jax.checkpoints import Checkpoints, TrainState
from vae_jax.experiment import Experiment, build
from vae_jax.inference import TrainedVAE
from vae_jax.runtime.signals import STOP_SIGNALS
from vae_jax.training import steps

# Most of the tests' time is compilation, so the compiler optimises little: at level 0, or at level
# 1 where a test turns more on. All this must be set before anything asks JAX for its devices.
XLA_FLAGS = (
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters,xla_cpu_disable_tiled_emitter "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = XLA_FLAGS
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)

# A script has its background jobs ignore Ctrl-C, and nohup has them ignore SIGHUP. The processes
# that the tests start would inherit that.
for number in STOP_SIGNALS:
    if signal.getsignal(number) is signal.SIG_IGN:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
IMAGE_SHAPE = (16, 16, 1)
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 64, 12, 20

TINY = {
    "data.name": "tiny",
    "data.validation_size": NUM_VALIDATION,
    "model.latent_shape": (4,),
    "model.widths": (8,),
    "model.num_blocks": (1,),
    "model.patch_size": 4,
    "likelihood.name": "discretized_logistic",
    "kl.warmup_steps": 10,
    "optim.learning_rate": 3e-3,
    "optim.warmup_steps": 2,
    "train.batch_size": 8,
    "train.num_steps": 24,
    "train.log_every_steps": 1,
    "train.eval_every_steps": 8,
    "train.checkpoint_every_steps": 4,
    "train.diagnose": False,  # the figure takes seconds; the trained run has one
    "eval.batch_size": 8,
    "eval.num_iw_samples": 4,
    "eval.num_iw_images": 10,
}
# Overrides for `make_config` that make every prior small.
SMALL_PRIOR = {
    "prior__num_components": 3,
    "prior__num_couplings": 2,
    "prior__widths": (8,),
    "prior__num_blocks": 1,
    "prior__num_sampling_steps": 3,
}


# The files that take longest come first, so that no worker is left alone with one at the end. The
# second one does not wait for the trained run, which the first one needs.
LONGEST_FILES = (
    "training/test_loop.py",
    "training/test_frozen_vae.py",
    "end_to_end/test_end_to_end.py",
    "training/test_steps.py",
    "end_to_end/test_processes.py",
    "configs/test_pathologies.py",
    "studies/test_ablation.py",
    "studies/test_priors.py",
    "faults/test_not_finite.py",
    "runtime/test_sharding.py",
    "faults/test_full_disk.py",
    "test_extending.py",
    "packaging/test_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by file, the longest files first."""
    rank = {REPOSITORY / "tests" / name: i for i, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def smooth_images(num_images: int, seed: int = 0, num_channels: int = 1) -> np.ndarray:
    """Random images without edges, uint8 [N, 16, 16, C]."""
    corners = np.random.default_rng(seed).random((num_images, 4, 4, num_channels))
    return np.round(255 * scipy.ndimage.zoom(corners, (1, 4, 4, 1), order=1)).astype(np.uint8)


def make_config(data_dir: pathlib.Path, **overrides) -> ConfigDict:
    """Returns the tiny configuration; keys of `overrides` have `__` in place of the dot."""
    config = default.get_config()
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict({**TINY, "data.dir": str(data_dir), **overrides})
    return config


def make_experiment(data_dir: pathlib.Path = pathlib.Path(), **overrides) -> Experiment:
    """Builds the experiment of this configuration for images of IMAGE_SHAPE."""
    return build(make_config(data_dir, **overrides), IMAGE_SHAPE)


def changed_vae(vae: TrainedVAE, data_dir: pathlib.Path | None = None, **plan) -> TrainedVAE:
    """Returns the model with another evaluation plan or dataset directory."""
    run = dataclasses.replace(
        vae.experiment, evaluation=dataclasses.replace(vae.experiment.evaluation, **plan)
    )
    if data_dir is not None:
        dataset = dataclasses.replace(run.dataset, data_dir=str(data_dir))
        run = dataclasses.replace(run, dataset=dataset)
    return TrainedVAE(run, vae.params, vae.step, vae._steps)


def config_flags(data_dir: pathlib.Path, **overrides) -> list[str]:
    """Returns the same configuration as flags of train.py."""
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    values = {**TINY, "data.dir": str(data_dir), **overrides}
    return ["--config=configs/default.py", *(f"--config.{k}={v}" for k, v in values.items())]


def user_environment(num_devices: int = 1, tensorflow: bool = False) -> dict[str, str]:
    """Returns the environment of a user's Python on CPU devices, without a network."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if not tensorflow:
        environment["PYTHONPATH"] = str(REPOSITORY / "tests" / "without_tensorflow")
    return {
        **environment,
        "XLA_FLAGS": XLA_FLAGS,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # Nothing listens on this port, so that a download fails at once.
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
        "no_proxy": "127.0.0.1",  # several processes meet here
    }


def run_command(
    *command,
    cwd: pathlib.Path = REPOSITORY,
    num_devices: int = 1,
    tensorflow: bool = False,
) -> subprocess.CompletedProcess:
    """Runs a command in a directory, as a user would."""
    environment = user_environment(num_devices, tensorflow)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return processes.finish(processes.start(command, cwd=cwd, env=environment, **pipes))


def run_python(*arguments, **kwargs) -> subprocess.CompletedProcess:
    """Runs Python, by default in the repository."""
    return run_command(sys.executable, *arguments, **kwargs)


def raise_sigterm_after(monkeypatch, step: int) -> None:
    """Makes training receive SIGTERM during the step of this number."""
    jit_train_steps = steps.jit_train_steps

    def jit_and_signal(*args):
        train_steps = jit_train_steps(*args)

        def call(state, *rest):
            state, metrics = train_steps(state, *rest)
            if int(state.step) == step:
                signal.raise_signal(signal.SIGTERM)
            return state, metrics

        return call

    monkeypatch.setattr(steps, "jit_train_steps", jit_and_signal)


def read_state(workdir: pathlib.Path, which="latest"):
    """Restores a checkpoint of a run on one device."""
    run = build(configuration.load(workdir), configuration.load_image_shape(workdir))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: run.create_state(jax.random.key(0)))
    template = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes
    )
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(template, which)


def save_evaluated(checkpoints: Checkpoints, state: TrainState, elbo: float | None) -> None:
    """Saves a checkpoint and notes its validation ELBO, unless that is None."""
    checkpoints.save(state)
    if elbo is not None:
        checkpoints.record_evaluation(int(state.step), elbo, counts=True)


@pytest.fixture(autouse=True)
def end_processes():
    """Ends the processes that a test has started, whatever happens."""
    yield
    processes.end_all()


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory) -> pathlib.Path:
    """A temporary directory that all workers of pytest-xdist share."""
    directory = tmp_path_factory.getbasetemp()
    return directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory


def make_once(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Makes a file or directory unless another worker has; waits while another one does."""
    with open(f"{path}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_name(f"unfinished_{path.name}")
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared_dir):
    """Shares one cache among the tests and the processes they start; most compile the same."""
    directory = str(shared_dir / "compiled")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", directory)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="session")
def data_dir(shared_dir) -> pathlib.Path:
    """A directory with the dataset `tiny`."""

    def make(directory: pathlib.Path) -> None:
        (directory / "tiny").mkdir(parents=True)
        train = smooth_images(NUM_TRAIN + NUM_VALIDATION)
        np.save(directory / "tiny" / "train_images.npy", train)
        np.save(directory / "tiny" / "test_images.npy", smooth_images(NUM_TEST, seed=1))

    return make_once(shared_dir / "data", make)


@pytest.fixture(scope="session")
def trained_workdir(data_dir, shared_dir) -> pathlib.Path:
    """The workdir of a run of train.py that was never interrupted."""

    def train(workdir: pathlib.Path) -> None:
        process = run_python(
            "train.py",
            f"--workdir={workdir}",
            *config_flags(data_dir, train__diagnose=True),
            tensorflow=True,
        )
        assert process.returncode == 0, process.stderr

    return make_once(shared_dir / "trained", train)


@pytest.fixture
def copied_workdir(trained_workdir, tmp_path) -> pathlib.Path:
    """A copy of the trained run, for tests that write."""
    return shutil.copytree(trained_workdir, tmp_path / "copied")


@pytest.fixture(scope="session")
def vae(trained_workdir) -> vae_jax.TrainedVAE:
    """The trained run's best checkpoint, on two devices."""
    return vae_jax.load(trained_workdir)
