"""The training loop: resume, step, log, evaluate, save checkpoints, stop cleanly."""

import contextlib
import logging
import math
import pathlib
import signal
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae_jax import config as configuration
from vae_jax import data
from vae_jax.checkpoints import Checkpoints
from vae_jax.experiment import Experiment
from vae_jax.recording import writers
from vae_jax.runtime import profiling, sharding
from vae_jax.runtime.presence import Presence
from vae_jax.runtime.signals import Stopped, StopSignals
from vae_jax.streams import stream
from vae_jax.tasks import Rows, readers
from vae_jax.training import start, steps
from vae_jax.training.log import TrainingLog
from vae_jax.training.watch import (
    EvaluateFn,
    Watch,
    check_final_elbo,
    check_finite,
)
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
        sha256 = experiment.dataset.hash() if sharding.is_main_process() else ""  # reads them all
        self._images = data.UnchangedImages(experiment.dataset, sha256, train, validation)
        self._experiment, self._changed = start.claim_workdir(
            experiment, workdir, bool(self._checkpoints.steps()), len(train), sha256, self._mesh
        )
        experiment = self._experiment
        self._presence = Presence(workdir, configuration.CONFIG_FILE)
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
        self._is_pending = self._is_evaluation_due(self.step) and not self._is_evaluated()
        self._watch = Watch(
            experiment,
            workdir,
            train,
            validation,
            evaluate_fn,
            self._mesh,
            self.step - self._is_pending,
        )

    @property
    def step(self) -> int:
        """Number of training steps done so far."""
        return int(self._state.step)

    def run(self, signals: StopSignals) -> int | None:
        """Trains to the end.

        Args:
          signals: the stop signals of this process.

        Returns:
          The number of the signal that stopped the training early, or None.
        """
        plan, first_step, is_main = self._plan, self.step, sharding.is_main_process()
        is_complete = first_step >= plan.num_steps or self._watch.is_out_of_patience()
        if is_complete and not self._is_pending:
            self._log_completion()
            return None
        self._start_record()
        resident = None if is_complete else self._read_resident_rows()
        tracer = profiling.StepTracer(self._workdir, first_step, self._steps_per_call)
        quiet = None if is_main else True
        with (
            writers.MetricWriter(self._workdir, first_step, self._is_pending)
            if is_main
            else contextlib.nullcontext() as writer,
            signals.deferred(),
            contextlib.closing(tracer),
            logging_redirect_tqdm(loggers=[logging.getLogger("vae_jax")]),
            tqdm(total=plan.num_steps, initial=first_step, disable=quiet, unit="step") as bar,
        ):
            log = TrainingLog(self._experiment, writer, bar)
            if self._is_pending and self._evaluate(writer, signals):
                return self._stop_or_end(signals)
            stride = self._steps_per_call
            for step in range(first_step + stride, plan.num_steps + 1, stride):
                log.add(self._do_steps(resident, step))
                if plan.profile and is_main:
                    tracer.after_call(step, self._state)
                stopping = bool(signals.received) and not self._mesh.is_multi_process
                if step % plan.log_every_steps == 0 or step == plan.num_steps:
                    self._log(log, step)
                    # Processes wait for each other, so they must stop at the same step.
                    stopping = sharding.any_process(bool(signals.received))
                is_due = self._is_evaluation_due(step)
                # Before the evaluation, which may fail or take long.
                if is_due or step % plan.checkpoint_every_steps == 0 or stopping:
                    self._save()
                if stopping:
                    return self._stop(signals)
                if is_due:
                    with log.paused():
                        if self._evaluate(writer, signals):
                            break
            return self._stop_or_end(signals)

    def _log_completion(self) -> None:
        """Says that there is nothing left to train, and why."""
        LOGGER.info("%s is already trained to step %d.", self._workdir, self.step)
        if self.step < self._plan.num_steps:
            LOGGER.info(
                "It stopped before step %d, because its validation ELBO did not rise: "
                "train.patience = %d. With a larger value it trains on, with 0 to the end.",
                self._plan.num_steps,
                self._plan.patience,
            )

    def _start_record(self) -> None:
        """Notes in config.json what has changed since the run was started."""
        for key, (before, now) in self._changed.items():
            LOGGER.info("Resuming with %s = %s instead of %s.", key, now, before)
        if self._changed and sharding.is_main_process():
            entry = configuration.history_entry(self.step, self._changed)
            configuration.update(self._experiment.config, self._workdir, entry)

    def _check_presence(self) -> None:
        """Raises a WorkdirLostError if the workdir is not the one in which the run was started."""
        if sharding.is_main_process():  # which has written config.json
            self._presence.check()

    def _is_evaluation_due(self, step: int) -> bool:
        plan = self._plan
        return step == plan.num_steps or (step > 0 and step % plan.eval_every_steps == 0)

    def _is_evaluated(self) -> bool:
        """Returns whether the state from which the run goes on was evaluated; on all processes."""
        is_evaluated = sharding.is_main_process() and self._checkpoints.is_evaluated(self.step)
        return bool(sharding.broadcast(int(is_evaluated)))

    def _save(self) -> None:
        """Starts to save the state.

        Raises:
          TrainingDivergedError: a parameter is not finite.
          WorkdirLostError: the workdir is not the one in which the run was started.
        """
        self._check_presence()
        check_finite(self._state)
        self._checkpoints.save(self._state)

    def _evaluate(self, writer: writers.MetricWriter | None, signals: StopSignals) -> bool:
        """Evaluates the state, which is saved already; a signal ends the evaluation at once.

        Returns:
          Whether the run should end, because its validation ELBO does not rise or a signal came.

        Raises:
          ImagesChangedError: the images on disk are not those that the run started with.
        """
        if self.step == self._plan.num_steps:  # there is no later checkpoint to try again
            self._checkpoints.require_saved()
        self._checkpoints.await_save()
        if sharding.is_main_process():
            self._images.check()
        # A process that stops alone would leave the others waiting.
        is_alone = not self._mesh.is_multi_process
        try:
            with signals.immediate() if is_alone else contextlib.nullcontext():
                self._elbo = elbo = self._watch.evaluate(self._state, writer)
        except Stopped:
            return True
        except OSError:
            self._check_presence()  # which explains it better
            raise
        if sharding.is_main_process():
            self._checkpoints.record_evaluation(self.step, elbo, self._watch.is_warm(self.step))
        if not self._watch.is_out_of_patience():
            return False
        LOGGER.info(
            "Stopped at step %d: no better validation ELBO in the last %d evaluations "
            "(train.patience).",
            self.step,
            self._plan.patience,
        )
        return True

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
        try:
            batches: PyTree = indices if resident is not None else self._send_rows(indices)
        except data.ImagesChangedError:
            self._save()
            self._checkpoints.require_saved()
            raise
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
        self._check_presence()
        self._checkpoints.report_failed_save()
        metrics = log.collect()
        texts = self._watch.locate_non_finite(self._state, metrics, self._batch_indices)
        log.write(step, metrics, texts)
        self._watch.check_not_diverged(metrics, step)
        log.restart_timer()

    def _stop_or_end(self, signals: StopSignals) -> int | None:
        """Makes sure that the state is saved; returns the number of a signal that came, or None."""
        if signals.received and not self._mesh.is_multi_process:
            return self._stop(signals)
        self._checkpoints.require_saved()
        check_final_elbo(self._elbo)
        return None

    def _stop(self, signals: StopSignals) -> int:
        """Makes sure that the state is saved, and returns the number of the signal."""
        self._checkpoints.require_saved()
        # Without a signal of its own, the process stops for that of another one.
        number = signals.received[0] if signals.received else signal.SIGTERM
        name = signal.Signals(number).name
        LOGGER.info("Stopped by %s at step %d; the same command resumes there.", name, self.step)
        return number
