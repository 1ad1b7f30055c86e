"""The start of a run: its claim on the workdir, and its first or restored state."""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vae_jax import config as configuration
from vae_jax import doctor, files, inference, models
from vae_jax.checkpoints import DIRECTORY, Checkpoints
from vae_jax.checkpoints.state import TrainState
from vae_jax.data import Split
from vae_jax.errors import InputError
from vae_jax.experiment import Experiment
from vae_jax.recording import writers
from vae_jax.runtime import sharding
from vae_jax.runtime.provenance import collect_provenance, jax_settings
from vae_jax.streams import stream
from vae_jax.training import autotune

LOGGER = logging.getLogger(__name__)


def claim_workdir(
    experiment: Experiment,
    workdir: pathlib.Path,
    has_checkpoints: bool,
    num_images: int,
    data_hash: str,
    mesh: Mesh,
) -> tuple[Experiment, dict[str, list[Any]]]:
    """Checks that the workdir has no other run, and saves the configuration there.

    A run that was never saved has nothing to lose, so its configuration is overwritten.

    Args:
      experiment: what is trained.
      workdir: directory of the run.
      has_checkpoints: whether a run was started there and saved.
      num_images: number of training images.
      data_hash: hash of the training and validation images; needed by the main process only.
      mesh: devices to train on.

    Returns:
      The experiment with a number for train.batch_size = 'auto', and the keys that have changed
      since the run was started, each with its value then and now.

    Raises:
      InputError: the workdir has a run with another configuration or other images, or the records
        of a run whose checkpoints are gone.
    """
    if not experiment.training.batch_size:
        if has_checkpoints:
            found = configuration.load(workdir).train
            experiment = experiment.with_batch(found.batch_size, found.steps_per_call)
        else:
            experiment = autotune.resolve(experiment, num_images, mesh)
    for key, late in doctor.late_warmups(experiment).items():
        LOGGER.warning("WARNING: %s Lower %s or train longer.", late, key)
    plan, config = experiment.training, experiment.config
    sharding.check_batch_size("train.batch_size", plan.batch_size, mesh, plan.accumulation_steps)
    changed: dict[str, list[Any]] = {}
    if has_checkpoints:
        changed = configuration.changed_keys(config, experiment.image_shape, workdir)
        changed |= _changed_settings(workdir)
    if not sharding.is_main_process():
        return experiment, changed
    if has_checkpoints:
        configuration.check_same_data(config, data_hash, workdir)
        return experiment, changed
    _check_nothing_to_lose(workdir)
    vae_started = None
    if config["vae_workdir"]:
        configuration.check_same_data(config, data_hash, config["vae_workdir"])
        vae_started = configuration.load_start(config["vae_workdir"]).get("started")
    configuration.save(
        config, experiment.image_shape, collect_provenance(), workdir, data_hash, vae_started
    )
    return experiment, changed


def _check_nothing_to_lose(workdir: pathlib.Path) -> None:
    """Checks that no run without checkpoints was saved and evaluated before."""
    if (workdir / DIRECTORY).exists():  # without a checkpoint, because none could be saved
        return
    evaluated = [r["step"] for r in writers.read_metrics(workdir) if "validation/elbo" in r]
    if evaluated:
        raise InputError(
            f"{workdir} has the records of a run to step {max(evaluated)}, but no "
            f"{DIRECTORY}/: put that directory back, or give another --workdir."
        )


def _changed_settings(workdir: pathlib.Path) -> dict[str, list[Any]]:
    """Returns JAX's settings that have changed since the run was started.

    Raises:
      InputError: the random numbers would be others.
    """
    now, before = jax_settings(), configuration.load_start(workdir).get("jax_settings")
    if not isinstance(before, dict):  # an early version recorded none
        return {}
    if before.get("key_kind", now["key_kind"]) != now["key_kind"]:
        raise InputError(
            f"the run in {workdir} draws its random numbers with {before['key_kind']}, this "
            f"version with {now['key_kind']}: check out the commit in its config.json, or give "
            "another --workdir."
        )
    return {
        f"jax_settings.{key}": [value, now.get(key)]
        for key, value in before.items()
        if value != now.get(key)
    }


def create_or_restore_state(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    train: Split,
    mesh: Mesh,
) -> TrainState:
    """Returns the newest intact state of the run, or a new one if it has no checkpoint.

    Raises:
      CheckpointsDamagedError: none of the checkpoints can be read.
    """
    everywhere = sharding.replicated(mesh)
    create = jax.jit(experiment.create_state, out_shardings=everywhere)
    fresh = create(stream("init", experiment.training.seed))
    restored = checkpoints.restore_latest_intact(fresh)
    if restored is not None:
        LOGGER.info("Resuming from step %d.", int(restored.step))
        return restored
    table = models.parameter_table(fresh.params)
    LOGGER.info("Parameters:\n%s", table)
    if sharding.is_main_process():
        files.write_text(workdir / "parameters.md", table + "\n")
    params = experiment.task.start(fresh.params, train, inference.load)
    params = jax.device_put(params, everywhere)
    # Copies: the train step donates its input, and a buffer cannot be donated twice.
    return fresh.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
