"""Loads the model of a training run: `model = vae_jax.load("workdir/demo")`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from vae_jax import config as configuration
from vae_jax.checkpoints import CheckpointReader
from vae_jax.experiment import Experiment, build
from vae_jax.inference import arguments
from vae_jax.inference.trained_vae import TrainedVAE
from vae_jax.runtime import sharding
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.settings import standard_settings


@standard_settings()
def load(
    workdir: str | pathlib.Path,
    checkpoint: str | int = "best",
    batch_size: int | None = None,
    use_ema: bool | None = None,
    data_dir: str | pathlib.Path | None = None,
    num_iw_images: int | None = None,
    allow_other_images: bool = False,
) -> TrainedVAE:
    """Loads the model of a training run.

    The arguments that are None by default are then as in the configuration of the run.

    Args:
      workdir: directory of the run, written by train.py; `~` is expanded.
      checkpoint: 'best' (by validation ELBO), 'latest', or a step.
      batch_size: images per call over all devices.
      use_ema: whether to use the averaged parameters instead of the raw ones.
      data_dir: where the images are now, if they have moved: their directory, or the one above.
      num_iw_images: number of images for the gain of the importance-weighted bound; 0: all.
      allow_other_images: whether the dataset may have other images than the run was trained on.

    Raises:
      NotFoundError: the directory has no run or no such checkpoint.
      InputError: the run was written by another version of this program, or an argument breaks a
        rule.
      CheckpointsDamagedError: the checkpoint cannot be read.
    """
    workdir = resolve_workdir(arguments.directory("workdir", workdir), "workdir")
    optional = arguments.optional
    changes = {
        "eval.batch_size": optional(
            arguments.count, "batch_size", batch_size, 1, arguments.MAX_VALUES
        ),
        "eval.use_ema": optional(arguments.flag, "use_ema", use_ema),
        "eval.num_iw_images": optional(arguments.count, "num_iw_images", num_iw_images, 0),
    }
    place = optional(arguments.directory, "data_dir", data_dir)
    experiment = load_experiment(workdir, changes, place, allow_other_images)
    return restore(experiment, workdir, checkpoint)


def load_experiment(
    workdir: str | pathlib.Path,
    changes: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    allow_other_images: bool = False,
) -> Experiment:
    """Builds the experiment of a run again; `changes` are values by dotted key. See `load`."""
    allow_other_images = arguments.flag("allow_other_images", allow_other_images)
    experiment = build(
        configuration.load(workdir, changes), configuration.load_image_shape(workdir)
    )
    return experiment.with_images(
        data_dir, configuration.load_data_hash(workdir), allow_other_images
    )


@standard_settings()
def restore(
    experiment: Experiment, workdir: str | pathlib.Path, checkpoint: str | int
) -> TrainedVAE:
    """Loads the model of a training run whose experiment is built already; see `load`."""
    shapes = jax.eval_shape(lambda: experiment.create_state(jax.random.key(0)))
    everywhere = sharding.replicated(sharding.create_mesh())
    template = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), shapes
    )
    state = CheckpointReader(workdir).restore(template, checkpoint)
    return TrainedVAE.from_state(experiment, state)
