"""Diagnosis of a run from the files in its workdir."""

import pathlib

from vae_jax import config as configuration
from vae_jax import data, experiment, inference
from vae_jax.checkpoints import Checkpoints
from vae_jax.doctor.diagnosis import Diagnosis, diagnose
from vae_jax.doctor.images import diagnose_images
from vae_jax.recording import writers


def diagnose_workdir(
    workdir: str | pathlib.Path,
    checkpoint: str | int = "latest",
    data_dir: str | None = None,
    check_test_images: bool = True,
) -> Diagnosis:
    """Diagnoses a run from its records, its images and a checkpoint.

    If 'latest' is asked for and the run has no checkpoint, records and images alone are examined.

    Args:
      workdir: directory of the run, written by train.py.
      checkpoint: 'latest', 'best' (by validation ELBO) or a step.
      data_dir: dataset directory, if it has moved since training.
      check_test_images: whether to look for faults in the test images too. The model is examined
        on the other splits only.

    Raises:
      NotFoundError: the directory has no run, or no such checkpoint.
      InputError: the configuration or the dataset cannot be read.
      CheckpointsDamagedError: the checkpoint cannot be read.
    """
    config = configuration.load(workdir)
    if data_dir is not None:
        config.data.dir = data_dir
    names = data.SPLITS if check_test_images else ("train", "validation")
    splits = {name: experiment.load_split(config, name) for name in names}
    image_findings = diagnose_images(list(splits.values()))
    vae = raw = None
    if Checkpoints(workdir).steps() or checkpoint != "latest":
        vae = inference.load(workdir, checkpoint)
        raw = inference.load(workdir, checkpoint, use_ema=False) if config.eval.use_ema else None
    return diagnose(
        config,
        writers.read_metrics(workdir),
        splits["train"],
        splits["validation"],
        vae,
        raw,
        image_findings,
    )
