"""The diagnosis of what lies in a workdir."""

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
    """Examines a checkpoint and the images of a run; without a checkpoint, records and images.

    Args:
      workdir: written by train.py.
      checkpoint: 'latest', 'best' (by validation ELBO), or a step.
      data_dir: where datasets lie, if not where training found them.
      check_test_images: look for faults in the test images too; the model never sees them here.

    Raises:
      FileNotFoundError: no run, or no such checkpoint there.
      ValueError: the dataset is not to be had.
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
