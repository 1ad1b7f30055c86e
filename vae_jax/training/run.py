"""A whole run: from a configuration and a workdir to a trained model."""

import contextlib
import pathlib

import jax
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import files
from vae_jax.experiment import build, validate
from vae_jax.runtime import distributed, sharding
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.settings import standard_settings
from vae_jax.runtime.signals import catch_stop_signals
from vae_jax.runtime.workdir import check_contents, check_writable, lock_workdir
from vae_jax.training.loop import Trainer
from vae_jax.training.watch import EvaluateFn, TrainingDivergedError


@standard_settings()
def train_and_evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, evaluate_fn: EvaluateFn
) -> int | None:
    """Trains the configured VAE in `workdir`, and resumes the run that is there.

    Args:
      config: run configuration, checked before anything is written.
      workdir: directory that receives config.json, parameters.md, metrics.jsonl, tensorboard/,
        curves.png, diagnosis.md, diagnosis.png, images/ and checkpoints/.
      evaluate_fn: called at each evaluation with the model and the validation split; the model has
        the averaged parameters if eval.use_ema is set.

    Returns:
      None if the training is complete, or the number of the signal that stopped it; the state is
      saved in both cases.

    Raises:
      InputError: a wrong configuration or dataset, or a workdir that holds another run.
      NotFoundError: there is no run in vae_workdir.
      WorkdirBusyError: another process trains in `workdir`.
      WorkdirLostError: `workdir` was moved or removed while the run was using it.
      ImagesChangedError: the images changed on disk while the run was using them.
      CheckpointsDamagedError: none of the checkpoints can be read.
      CheckpointNotSavedError: the checkpoint at the end, or after a signal, could not be written.
      OSError: `workdir` cannot be created or written, or the disk is full.
      TrainingDivergedError: too many updates in a row had non-finite gradients, or the last
        validation ELBO is not finite.
      ProcessLostError: another process of the run has ended.
    """
    workdir = resolve_workdir(workdir)
    configuration.check_each_value(config)
    config = configuration.complete(config, workdir)
    validate(config)
    workdir.mkdir(parents=True, exist_ok=True)
    is_main = sharding.is_main_process()
    if is_main:
        check_writable(workdir)
        check_contents(workdir)
    with (
        catch_stop_signals() as signals,
        lock_workdir(workdir) if is_main else contextlib.nullcontext(),
    ):
        if is_main:
            files.remove_abandoned(workdir)
        trainer = Trainer(build(config), workdir, evaluate_fn)
        try:
            stopped_by = trainer.run(signals)
        except BaseException as error:
            if jax.process_count() == 1:
                with signals.deferred():
                    trainer.close()
            elif isinstance(error, Exception) and not isinstance(error, TrainingDivergedError):
                raise distributed.ProcessLostError(
                    f"process {jax.process_index()} of {jax.process_count()} lost another process, "
                    f"whose log says why, or failed itself ({error}). The same commands resume "
                    "from the last checkpoint."
                ) from error
            raise  # without `close`, which would wait for the other processes
        with signals.deferred():
            trainer.close()
        return stopped_by
