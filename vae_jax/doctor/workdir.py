"""Diagnosis of a run from the files in its workdir."""

import logging
import pathlib

from vae_jax import data, inference
from vae_jax.checkpoints import CheckpointReader
from vae_jax.doctor.diagnosis import Diagnosis, diagnose
from vae_jax.doctor.images import diagnose_images
from vae_jax.errors import NotFoundError
from vae_jax.experiment import Experiment
from vae_jax.inference import TrainedVAE
from vae_jax.recording import writers
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.settings import standard_settings

LOGGER = logging.getLogger(__name__)


@standard_settings()
def diagnose_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str | int = "latest",
    data_dir: str | None = None,
    allow_other_images: bool = False,
) -> Diagnosis:
    """Diagnoses a run from its records, its images and a checkpoint.

    If 'latest' is asked for and the run has no checkpoint, records and images alone are examined.

    Args:
      workdir: directory of the run, written by train.py.
      checkpoint: 'latest', 'best' (by validation ELBO) or a step.
      data_dir: where the images are now, if they have moved: their directory, or the one above.
      allow_other_images: whether the dataset may have other images than the run was trained on.

    Raises:
      NotFoundError: the directory has no run, no such checkpoint, or nothing to diagnose.
      InputError: the configuration or the dataset cannot be read.
      CheckpointsDamagedError: the checkpoint cannot be read.
    """
    workdir = resolve_workdir(workdir, "workdir")
    run = inference.load_experiment(
        workdir, data_dir=data_dir, allow_other_images=allow_other_images
    )
    vae = None
    if CheckpointReader(workdir).steps() or checkpoint != "latest":
        vae = inference.restore(run, workdir, checkpoint)
    elif not writers.read_metrics(workdir):
        raise NotFoundError(
            f"{workdir} has neither checkpoints nor records, so that there is nothing to diagnose: "
            "train first, or put them back."
        )
    return diagnose_run(run, workdir, vae)


@standard_settings()
def diagnose_run(
    run: Experiment,
    workdir: str | pathlib.Path,
    vae: TrainedVAE | None,
    check_test_images: bool = True,
) -> Diagnosis:
    """Diagnoses a run whose model is loaded already.

    Args:
      run: experiment of the run.
      workdir: directory of the run.
      vae: model at a checkpoint; None: records and images alone are examined.
      check_test_images: whether to look for faults in the test images too. The model is examined
        on the other splits only.
    """
    workdir = resolve_workdir(workdir, "workdir")
    names = data.SPLITS if check_test_images else ("train", "validation")
    splits = [run.dataset.split(name) for name in names]
    records = writers.read_metrics(workdir)
    if vae is None:
        LOGGER.warning("%s has no checkpoint: the model was not examined.", workdir)
    if not records:
        LOGGER.warning("%s has no records: the course of the training was not examined.", workdir)
    return diagnose(run, records, splits[0], splits[1], vae, diagnose_images(splits))
