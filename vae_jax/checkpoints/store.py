"""Saves and restores the checkpoints of a workdir. No other module imports orbax."""

import contextlib
import functools
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.args import StandardSave

from vae_jax.checkpoints import validation
from vae_jax.checkpoints.paths import LiteralPath
from vae_jax.checkpoints.state import TrainState
from vae_jax.checkpoints.verification import (
    check_array_shape,
    compute_checksums,
    find_repeated,
    placeholder,
    replace_repeated,
)
from vae_jax.errors import InputError, NotFoundError, UserError
from vae_jax.registry import show
from vae_jax.runtime import sharding

LOGGER = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
DAMAGED_DIRECTORY = "damaged_checkpoints"
# Errors while reading that do not mean that the checkpoint is damaged.
NOT_DAMAGE = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)
STEP = re.compile("[0-9]{1,18}")  # the name of a checkpoint
RUN_AGAIN = "Put that right and run the same command again."


class CheckpointsDamagedError(UserError, RuntimeError):
    """The requested checkpoint, or every checkpoint, is damaged."""


class CheckpointNotSavedError(UserError, RuntimeError):
    """The checkpoint from which the run would resume could not be written."""


class Checkpoints:
    """Keeps the latest `num_latest` checkpoints of a workdir, and the best by validation ELBO.

    Saving is asynchronous: `close`, or the end of the `with` block, waits until it is done. A save
    that fails, for example on a full disk, logs a warning and leaves no files behind, so that
    training can go on and try again at the next checkpoint. Call `require_saved` to make sure that
    the last one was written. The first checkpoint that a process writes is read back at once, so
    that a run whose checkpoints cannot be loaded does not go on. Reading does not use orbax's
    manager, because that refuses the whole directory if one checkpoint is damaged.

    Args:
      workdir: directory of the run.
      num_latest: number of latest checkpoints to keep.
    """

    def __init__(self, workdir: str | pathlib.Path, num_latest: int = 1) -> None:
        self._workdir = pathlib.Path(workdir).absolute()  # orbax refuses relative paths
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

    def steps(self) -> list[int]:
        """Returns the steps of all finished checkpoints, in ascending order."""
        directory = self._workdir / DIRECTORY
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
        return sorted(int(name) for name in names if STEP.fullmatch(name))

    def best_step(self) -> int | None:
        """Returns the step with the highest validation ELBO.

        If no checkpoint has an ELBO it is the latest step, and without any checkpoint it is None.
        """
        best = self._best_by_elbo()
        return max(self.steps(), default=None) if best is None else best

    def _best_by_elbo(self) -> int | None:
        elbos: dict[int, float] = {}
        for step in self.steps():
            with contextlib.suppress(ValueError, KeyError):  # a damaged checkpoint is not the best
                elbo = validation.read_elbo(self._path(step))
                if elbo is not None:
                    elbos[step] = elbo
        return max(elbos, key=lambda step: elbos[step], default=None)

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
                f"back ({_first_line(error)}): give a --workdir with another name, or on another "
                "file system."
            ) from error
        self._was_read_back = True

    def is_evaluated(self, step: int) -> bool:
        """Returns whether the checkpoint of this step was evaluated."""
        return validation.is_evaluated(self._path(step))

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

    def restore(self, template: TrainState, which: str | int = "best") -> TrainState:
        """Restores one checkpoint.

        Args:
          template: a state, or the shapes of one (`jax.eval_shape`); the restored state has its
            shapes, dtypes and shardings.
          which: 'best' (by validation ELBO), 'latest', or a step.

        Raises:
          InputError: `which` is none of these.
          NotFoundError: there is no such checkpoint.
          CheckpointsDamagedError: the checkpoint cannot be read.
        """
        steps = self.steps()
        step: int | None
        if which == "best":
            step = self.best_step()
        elif which == "latest":
            step = max(steps, default=None)
        else:
            step = _parse_step(which)
            if step is None:
                raise InputError(
                    f"checkpoint {show(which)} must be 'best', 'latest' or one of the steps "
                    f"{steps}."
                )
        if step is None or step not in steps:
            raise NotFoundError(
                f"checkpoint {show(which)} is not in {self._workdir / DIRECTORY}: it holds the "
                f"steps {steps}. Train first, or name one of these."
            )
        try:
            restored = self._restore_step(template, step)
        except NOT_DAMAGE:
            raise
        except Exception as error:  # orbax raises many types for missing or truncated files
            raise CheckpointsDamagedError(
                f"Checkpoint {step} in {self._workdir / DIRECTORY} cannot be read "
                f"({_first_line(error)}): name another of the steps {steps}, or continue the "
                "training, which falls back to an intact one."
            ) from error
        return _place(restored, template)

    def restore_latest_intact(self, template: TrainState) -> TrainState | None:
        """Restores the newest checkpoint that can be read; None if there is no checkpoint.

        Newer, damaged checkpoints are moved to `damaged_checkpoints/`, so that training can write
        checkpoints of these steps again.

        Args:
          template: as for `restore`.

        Raises:
          CheckpointsDamagedError: no checkpoint can be read; none is moved.
        """
        found = None
        if sharding.is_main_process():
            found = self._find_latest_intact(template)
            self._set_damaged_aside()
        step = int(sharding.broadcast(found[0] if found else -1))  # the same in all processes
        if step < 0:
            return None
        return _place(found[1] if found else self._restore_step(template, step), template)

    def _find_latest_intact(self, template: TrainState) -> tuple[int, TrainState] | None:
        """Returns step and state of the newest readable checkpoint; None if there is none."""
        damaged: dict[int, Exception] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._restore_step(template, step)
            except NOT_DAMAGE:
                raise
            except Exception as error:  # orbax raises many types
                damaged[step] = error
                continue
            for damaged_step, reason in damaged.items():
                self._set_aside(damaged_step, reason)
            return step, restored
        if damaged:
            newest = max(damaged)
            raise CheckpointsDamagedError(
                f"No checkpoint in {self._workdir} can be read; the error at step {newest} was: "
                f"{_first_line(damaged[newest])}. If the code of the model has changed, check out "
                "the commit in config.json; to train from step 0, give another --workdir."
            ) from damaged[newest]
        return None

    def _restore_step(self, template: TrainState, step: int) -> TrainState:
        """Reads and verifies the checkpoint of a step, as NumPy arrays."""
        # Each process reads alone: if it waited for the others, and another process found the
        # checkpoint damaged, it would wait for ever.
        index = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
        )
        metadata = validation.read_metadata(self._path(step))
        repeated = metadata.get("repeated", [])
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
        arrays = replace_repeated(arrays, repeated, placeholder)
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            restored = checkpointer.restore(self._path(step) / "default", arrays)
        # Copies: training donates the state, and a buffer cannot be donated twice.
        restored = replace_repeated(restored, repeated, np.copy)
        validation.read_elbo(self._path(step))  # raises an error if it is damaged
        jax.tree.map_with_path(check_array_shape, restored, template)
        saved = metadata.get("crc32")
        if saved is not None:
            actual = compute_checksums(restored)
            differing = [name for name in actual | saved if actual.get(name) != saved.get(name)]
            if differing:
                raise ValueError(f"{differing[0]} does not match its saved checksum")
        return restored

    def _set_damaged_aside(self) -> None:
        """Moves checkpoints with a damaged ELBO out of the directory."""
        if sharding.is_main_process():
            for step in self.steps():
                try:
                    validation.read_elbo(self._path(step))
                except (ValueError, KeyError) as error:
                    self._set_aside(step, error)

    def _path(self, step: int) -> pathlib.Path:
        return self._workdir / DIRECTORY / str(step)

    def _set_aside(self, step: int, error: Exception) -> None:
        moved = self._workdir / DAMAGED_DIRECTORY / str(step)
        LOGGER.warning(
            "Checkpoint %d is damaged (%s): moved to %s.", step, _first_line(error), moved
        )
        shutil.rmtree(moved, ignore_errors=True)
        moved.parent.mkdir(exist_ok=True)
        shutil.move(self._path(step), moved)


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Tells orbax which checkpoints to keep."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._checkpoints.kept_steps(steps)
        return [step in kept for step in steps]


def _place(state: TrainState, template: TrainState) -> TrainState:
    """Puts `state`, which every process holds completely, on the devices of `template`."""

    def place(array: np.ndarray, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(array.shape, like.sharding, array.__getitem__)

    return jax.tree.map(place, state, template)


def _parse_step(which: object) -> int | None:
    """Returns the step that a user has named, or None."""
    with contextlib.suppress(ValueError):  # an integer of too many digits
        return int(str(which)) if STEP.fullmatch(str(which)) else None
    return None


def _first_line(error: Exception) -> str:
    """Returns the first line of a message, without the settings that tensorstore appends to it."""
    line = (str(error).splitlines() or [""])[0].split(" [tensorstore_spec")[0]
    return line or type(error).__name__


def _reason(error: Exception) -> str:
    """Returns why something could not be written, in the words of the operating system.

    An error of tensorstore has the error number of the system in its text.
    """
    number = getattr(error, "errno", None)
    in_text = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None and in_text:
        number = int(in_text[1])
    return _first_line(error) if number is None else os.strerror(number)
