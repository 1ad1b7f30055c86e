"""Saves the checkpoints of a workdir and keeps the latest ones and the best."""

import contextlib
import functools
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Sequence

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.args import StandardSave

from vae_jax.checkpoints import validation
from vae_jax.checkpoints.paths import LiteralPath
from vae_jax.checkpoints.reading import DIRECTORY, NOT_DAMAGE, CheckpointReader, first_line
from vae_jax.checkpoints.state import TrainState
from vae_jax.checkpoints.verification import (
    compute_checksums,
    find_repeated,
    placeholder,
    replace_repeated,
)
from vae_jax.errors import UserError

LOGGER = logging.getLogger(__name__)

RUN_AGAIN = "Put that right and run the same command again."


class CheckpointNotSavedError(UserError, RuntimeError):
    """The checkpoint from which the run would resume could not be written."""


class Checkpoints(CheckpointReader):
    """Keeps the latest `num_latest` checkpoints of a workdir, and the best by validation ELBO.

    Saving is asynchronous: `close`, or the end of the `with` block, waits until it is done. A save
    that fails, for example on a full disk, logs a warning and leaves no files behind, so that
    training can go on and try again at the next checkpoint. Call `require_saved` to make sure that
    the last one was written. The first checkpoint that a process writes is read back at once, so
    that a run whose checkpoints cannot be loaded does not go on.

    Args:
      workdir: directory of the run.
      num_latest: number of latest checkpoints to keep.
    """

    def __init__(self, workdir: str | pathlib.Path, num_latest: int = 1) -> None:
        super().__init__(workdir)
        self._num_latest = num_latest
        self._saving_step: int | None = None  # the step that is being written
        self._was_read_back = False
        self._failure = ""  # why the last save failed; empty if it did not
        self._failure_is_reported = True

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """The orbax manager, created by the first save: reading creates no files."""
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LatestAndBest(self),
            cleanup_tmp_directories=True,  # a killed process leaves them behind
        )
        return ocp.CheckpointManager(LiteralPath(self._workdir / DIRECTORY), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until the running save is done, and releases the threads of the manager."""
        self.await_save()
        if "_manager" in self.__dict__:
            self._manager.close()

    def kept_steps(self, steps: Sequence[int]) -> set[int]:
        """Returns those of the `steps` that are kept: the latest ones, and the best one."""
        best = self._best_by_elbo()
        return {*sorted(steps)[-self._num_latest :], *([] if best is None else [best])}

    def save(self, state: TrainState) -> None:
        """Starts to save `state`, unless there is a checkpoint of its step.

        Args:
          state: the state; its arrays must be replicated over the devices.

        Raises:
          CheckpointNotSavedError: the first checkpoint of this process cannot be read back.
        """
        self.await_save()
        step = int(state.step)
        self._saving_step, self._failure = step, ""
        repeated = find_repeated(state)
        metadata = {
            "crc32": compute_checksums(state),
            "repeated": repeated,
            validation.SAVED_FIRST: True,
        }
        try:
            if step not in self._manager.all_steps():
                self._manager.save(
                    step,
                    args=StandardSave(replace_repeated(state, repeated, placeholder)),
                    custom_metadata=metadata,
                    force=True,
                )
        except Exception as error:  # orbax raises many types
            self._give_up_save(error)
        if not self._was_read_back:
            self._read_back(state)

    def _read_back(self, state: TrainState) -> None:
        """Waits until `state` is saved, and reads it back.

        Raises:
          CheckpointNotSavedError: it cannot be read.
        """
        self._await_save()
        step = int(state.step)
        if self._failure:
            return
        try:
            self._restore_step(state, step)
        except NOT_DAMAGE:
            raise
        except Exception as error:  # orbax raises many types
            raise CheckpointNotSavedError(
                f"Checkpoint {step} was written to {self._workdir / DIRECTORY}, but cannot be read "
                f"back ({first_line(error)}): give a --workdir with another name, or on another "
                "file system."
            ) from error
        self._was_read_back = True

    def record_evaluation(self, step: int, elbo: float, counts: bool) -> None:
        """Notes the validation ELBO of a checkpoint, if it was saved, and deletes superseded ones.

        Args:
          step: step of the checkpoint.
          elbo: validation ELBO, nats.
          counts: whether it may be the best one.
        """
        self._await_save()
        if step not in self.steps():
            return
        validation.write(self._path(step), elbo, counts)
        if jax.process_count() > 1:  # orbax would wait for the others; the next save deletes them
            return
        steps = self._manager.all_steps()
        for superseded in set(steps) - self.kept_steps(steps):
            self._manager.delete(superseded)

    def await_save(self) -> None:
        """Waits until the running save is done; logs a warning if it has failed."""
        self._await_save()
        self._report_failure()

    def report_failed_save(self) -> None:
        """Logs a warning if the last save has failed; does not wait for a running one."""
        if self._saving_step is not None and not self._manager.is_saving_in_progress():
            self._await_save()
        self._report_failure()

    def require_saved(self) -> None:
        """Waits until the running save is done.

        Raises:
          CheckpointNotSavedError: the last checkpoint could not be written.
        """
        self._await_save()
        self._failure_is_reported = True
        if self._failure:
            raise CheckpointNotSavedError(f"{self._failure} {RUN_AGAIN}")

    def _await_save(self) -> None:
        try:
            if self._saving_step is not None:
                self._manager.wait_until_finished()
        except Exception as error:  # orbax raises many types
            self._give_up_save(error)
        self._saving_step = None

    def _give_up_save(self, error: Exception) -> None:
        """Restores the directory to its content before the failed save, and notes the failure."""
        step, self._saving_step = self._saving_step, None
        LOGGER.debug("Traceback:", exc_info=error)
        directory, reason = self._workdir / DIRECTORY, _reason(error)
        failure = f"Checkpoint {step} could not be saved in {directory} ({reason})"
        manager = self.__dict__.pop("_manager", None)  # not usable after an error
        if jax.process_count() > 1:  # the other processes would wait for this one for ever
            raise CheckpointNotSavedError(f"{failure}. {RUN_AGAIN}") from error
        with contextlib.suppress(Exception):
            if manager:
                manager.close()
        for unfinished in directory.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if step in self.steps():
            LOGGER.warning("Checkpoint %d was saved, but then an error occurred: %s.", step, reason)
            return
        good = f"the last good one is {max(self.steps())}" if self.steps() else "there is none yet"
        self._failure = f"{failure}; {good}."
        self._failure_is_reported = False

    def _report_failure(self) -> None:
        if not self._failure_is_reported:
            LOGGER.warning("%s Saving is tried again at the next checkpoint.", self._failure)
        self._failure_is_reported = True


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Tells orbax which checkpoints to keep."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._checkpoints.kept_steps(steps)
        return [step in kept for step in steps]


def _reason(error: Exception) -> str:
    """Returns why something could not be written, in the words of the operating system.

    An error of tensorstore has the error number of the system in its text.
    """
    number = getattr(error, "errno", None)
    in_text = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None and in_text:
        number = int(in_text[1])
    return first_line(error) if number is None else os.strerror(number)
