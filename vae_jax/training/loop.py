"""The training loop: resume, step, log, evaluate, save checkpoints, stop cleanly."""

import contextlib
import logging
import math
import pathlib
import signal
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae_jax import config as configuration
from vae_jax import data
from vae_jax.checkpoints import Checkpoints
from vae_jax.experiment import Experiment, build, validate
from vae_jax.recording import writers
from vae_jax.runtime import process, profiling, sharding
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.signals import catch_stop_signals
from vae_jax.runtime.workdir import check_contents, check_writable, lock_workdir
from vae_jax.streams import stream
from vae_jax.tasks import Rows, readers
from vae_jax.training import start, steps
from vae_jax.training.log import TrainingLog
from vae_jax.training.watch import EvaluateFn, TrainingDivergedError, Watch
from vae_jax.typing import PyTree

LOGGER = logging.getLogger(__name__)


class Trainer:
    """Trains one run in one workdir, and resumes it if there are checkpoints.

    A resumed run ends with the same state and checkpoints as an uninterrupted one. Only its log may
    differ: after a stop between two log points, the next record averages the steps since the stop.

    Args:
      experiment: what is trained.
      workdir: directory of the run.
      evaluate_fn: evaluates the model on the validation images.

    Raises:
      InputError: the workdir has a run with another configuration or other images.
    """

    def __init__(
        self, experiment: Experiment, workdir: pathlib.Path, evaluate_fn: EvaluateFn
    ) -> None:
        self._workdir = workdir
        self._mesh = sharding.create_mesh(jax.devices())
        self._train = train = experiment.dataset.split("train")
        validation = experiment.dataset.split("validation")
        self._checkpoints = Checkpoints(workdir, experiment.training.keep_checkpoints)
        self._experiment = experiment = start.claim_workdir(
            experiment, workdir, bool(self._checkpoints.steps()), train, validation, self._mesh
        )
        self._plan = plan = experiment.training
        self._key = stream("train", plan.seed)
        self._batch_indices = data.make_batch_indices(len(train), plan.batch_size, plan.seed)
        self._state = start.create_or_restore_state(
            experiment, workdir, self._checkpoints, train, self._mesh
        )
        # The run may resume at a step that was reached with fewer steps per call on another
        # backend. The greatest common divisor makes every interval end at a call from there.
        self._steps_per_call = math.gcd(plan.steps_in_call(), self.step)
        self._train_steps = steps.jit_train_steps(
            steps.create_train_step(experiment), self._mesh, self._steps_per_call
        )
        self._watch = Watch(
            experiment, workdir, train, validation, evaluate_fn, self._mesh, self.step
        )

    @property
    def step(self) -> int:
        """Number of training steps done so far."""
        return int(self._state.step)

    def run(self) -> int | None:
        """Trains to the end.

        Returns:
          The number of the signal that stopped the training early, or None.
        """
        plan, first_step, is_main = self._plan, self.step, sharding.is_main_process()
        if first_step >= plan.num_steps or self._watch.is_out_of_patience():
            LOGGER.info("%s is already trained to step %d.", self._workdir, first_step)
            return None
        resident = self._read_resident_rows()
        tracer = profiling.StepTracer(self._workdir, first_step, self._steps_per_call)
        quiet = None if is_main else True
        with (
            writers.MetricWriter(self._workdir, first_step)
            if is_main
            else contextlib.nullcontext() as writer,
            catch_stop_signals() as signals,
            signals.deferred(),
            contextlib.closing(tracer),
            logging_redirect_tqdm(loggers=[logging.getLogger("vae_jax")]),
            tqdm(total=plan.num_steps, initial=first_step, disable=quiet, unit="step") as bar,
        ):
            log, received = TrainingLog(self._experiment, writer, bar), signals.received
            stride = self._steps_per_call
            for step in range(first_step + stride, plan.num_steps + 1, stride):
                is_last = step == plan.num_steps
                log.add(self._do_steps(resident, step))
                if plan.profile and is_main:
                    tracer.after_call(step, self._state)
                stopping = bool(received) and not self._mesh.is_multi_process
                if step % plan.log_every_steps == 0 or is_last:
                    self._log(log, step)
                    # Processes wait for each other, so they must stop at the same step.
                    stopping = sharding.any_process(bool(received))
                elbo = None
                # Also when stopping: the resumed run starts after this step.
                if step % plan.eval_every_steps == 0 or is_last:
                    with log.paused():
                        elbo = self._watch.evaluate(self._state, writer)
                if elbo is not None or step % plan.checkpoint_every_steps == 0 or stopping:
                    self._checkpoints.save(self._state, elbo if self._watch.is_warm(step) else None)
                if stopping:
                    return self._stop(step, received)
                if elbo is not None and self._watch.is_out_of_patience():
                    LOGGER.info(
                        "Stopped at step %d: no better validation ELBO in the last %d evaluations "
                        "(train.patience).",
                        step,
                        plan.patience,
                    )
                    break
        self._checkpoints.require_saved()
        return None

    def close(self) -> None:
        """Waits until the last checkpoint is written."""
        self._checkpoints.close()

    def _read_resident_rows(self) -> Rows | None:
        """Puts the training data on the devices; None if each call sends its own rows.

        With several processes each call does, so that a process reads only the images of its own
        devices.
        """
        if not self._plan.resident or self._mesh.is_multi_process:
            return None
        num_seen = self._plan.num_steps * self._plan.batch_size
        vae = self._watch.create_vae(self._state)
        rows = self._experiment.task.resident_rows(self._train, vae.raw or vae, num_seen)
        return jax.device_put(rows, sharding.replicated(self._mesh))

    def _do_steps(self, resident: Rows | None, last_step: int) -> dict[str, jax.Array]:
        """Does `steps_per_call` updates, and returns their metrics.

        Args:
          resident: as `_read_resident_rows` returns them.
          last_step: number of the last update, counted from 1.
        """
        first = last_step - self._steps_per_call
        indices = np.stack([self._batch_indices(step) for step in range(first, last_step)])
        batches: PyTree = indices if resident is not None else self._send_rows(indices)
        self._state, metrics = self._train_steps(self._state, resident, batches, self._key)
        return metrics

    def _send_rows(self, indices: np.ndarray) -> Rows:
        """Puts the rows at `indices`, [steps, B], on the devices, which share each batch."""

        def put(read: Callable[[np.ndarray | slice], np.ndarray]) -> jax.Array:
            shape = (*indices.shape, *read(indices[0, :0]).shape[1:])
            return sharding.put(lambda i: read(indices[:, i]), shape, self._mesh, axis=1)

        return {name: put(read) for name, read in readers(self._train).items()}

    def _log(self, log: TrainingLog, step: int) -> None:
        """Writes the metrics since the last log point.

        Raises:
          TrainingDivergedError: too many updates in a row were skipped.
        """
        self._checkpoints.report_failed_save()
        metrics = log.collect()
        texts = self._watch.locate_non_finite(self._state, metrics, self._batch_indices)
        log.write(step, metrics, texts)
        self._watch.check_not_diverged(metrics, step)
        log.restart_timer()

    def _stop(self, step: int, received: Sequence[int]) -> int:
        """Makes sure that the state is saved, and returns the number of the signal."""
        self._checkpoints.require_saved()
        # Without a signal of its own, the process stops for that of another one.
        number = received[0] if received else signal.SIGTERM
        name = signal.Signals(number).name
        LOGGER.info("Stopped by %s at step %d; the same command resumes there.", name, step)
        return number


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
      CheckpointsDamagedError: none of the checkpoints can be read.
      CheckpointNotSavedError: the checkpoint at the end, or after a signal, could not be written.
      OSError: `workdir` cannot be created or written, or the disk is full.
      TrainingDivergedError: too many updates in a row had non-finite gradients.
      ProcessLostError: another process of the run has ended.
    """
    config = configuration.complete(config)
    validate(config)
    workdir = resolve_workdir(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    is_main = sharding.is_main_process()
    if is_main:
        check_writable(workdir)
        check_contents(workdir)
    with lock_workdir(workdir) if is_main else contextlib.nullcontext():
        trainer = Trainer(build(config), workdir, evaluate_fn)
        try:
            stopped_by = trainer.run()
        except BaseException as error:
            if jax.process_count() == 1:
                trainer.close()
            elif isinstance(error, Exception) and not isinstance(error, TrainingDivergedError):
                raise process.ProcessLostError(
                    f"process {jax.process_index()} of {jax.process_count()} lost another process, "
                    f"whose log says why, or failed itself ({error}). The same commands resume "
                    "from the last checkpoint."
                ) from error
            raise  # without `close`, which would wait for the other processes
        trainer.close()
        return stopped_by
