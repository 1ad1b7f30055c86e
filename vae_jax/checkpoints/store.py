"""Checkpoints of a workdir: the only file that imports orbax."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Collection

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.args import StandardSave

from vae_jax.checkpoints.state import TrainState
from vae_jax.errors import InputError, NotFoundError, UserError
from vae_jax.runtime import sharding

LOGGER = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
DAMAGED_DIRECTORY = "damaged_checkpoints"
NOT_DAMAGE = (MemoryError, PermissionError, jax.errors.JaxRuntimeError)
METADATA_FILE = "_CHECKPOINT_METADATA"  # orbax's; what is to be verified is in its custom_metadata


class CheckpointsDamagedError(UserError, RuntimeError):
    """There are checkpoints, and none that was asked for can be read."""


class CheckpointNotSavedError(UserError, RuntimeError):
    """A checkpoint that the run is to be resumed from could not be written."""


def _get_elbo(metrics: dict) -> float:
    return metrics["elbo"]


def _bytes(array) -> np.ndarray:
    return np.asarray(array).reshape(-1).view(np.uint8)


def compute_checksums(state: TrainState) -> dict[str, int]:
    """CRC-32 of the bytes of every array, by its path in the state.

    Orbax verifies its small files and not the arrays: a flipped bit in one would be restored. The
    arrays must be replicated over the devices.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): zlib.crc32(_bytes(leaf)) for path, leaf in leaves}


def _find_repeated(state: TrainState) -> list[str]:
    """Paths in `ema_params` of arrays that are those of `params`: of a frozen VAE all are."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state.ema_params)
    pairs = zip(paths, jax.tree.leaves(state.params), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, averaged), param in pairs
        if np.array_equal(_bytes(averaged), _bytes(param))
    ]


def _replace_repeated(state: TrainState, repeated: Collection[str], make: Callable) -> TrainState:
    """`state` with make(array of params) for the arrays of `ema_params` at these paths."""

    def replace(path, averaged, param):
        return make(param) if jax.tree_util.keystr(path) in repeated else averaged

    ema_params = jax.tree.map_with_path(replace, state.ema_params, state.params)
    return state.replace(ema_params=ema_params)


def _placeholder(array) -> np.ndarray:
    """Stands in a file for what is not written a second time; orbax writes no empty arrays."""
    return np.zeros(1, array.dtype)


class Checkpoints:
    """The latest `num_latest` checkpoints of a workdir and the best by validation ELBO.

    Saving is asynchronous: `close` (or leaving the `with` block) waits for what is under way. A
    save that fails, for lack of space say, is a warning and leaves nothing behind: a run goes on,
    and tries again at its next checkpoint. Whether the last one is there, `require_saved` says.
    Reading goes around orbax's manager, which refuses a directory as a whole where one checkpoint
    is damaged.
    """

    def __init__(self, workdir: str | pathlib.Path, num_latest: int = 1):
        self._workdir = pathlib.Path(workdir).absolute()  # orbax refuses relative paths
        self._num_latest = num_latest
        self._under_way: int | None = None  # the step that is being written
        self._failure = ""  # what has become of the save asked for last, if it failed
        self._failure_is_told = True

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made when something is saved: reading makes nothing."""
        latest = checkpoint_managers.LatestN(self._num_latest)
        best = checkpoint_managers.BestN(
            get_metric_fn=_get_elbo, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
            best_fn=_get_elbo,
            cleanup_tmp_directories=True,  # of a killed process
        )
        self._set_torn_aside()  # orbax would refuse the directory
        return ocp.CheckpointManager(self._workdir / DIRECTORY, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for saves under way and releases the manager's threads."""
        self._await_save()
        self._tell_failure()
        if "_manager" in self.__dict__:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of all finished checkpoints, ascending."""
        directory = self._workdir / DIRECTORY
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
        return sorted(int(name) for name in names if name.isdigit())

    def best_step(self) -> int | None:
        """The step of highest validation ELBO, the latest where none has one, None without any."""
        steps, elbos = self.steps(), {}
        for step in steps:
            with contextlib.suppress(ValueError, KeyError):  # a damaged file makes no best
                elbos[step] = self._read_elbo(step)
        known = [step for step in steps if elbos.get(step) is not None]
        return max(known, key=elbos.get) if known else max(steps, default=None)

    def save(self, state: TrainState, elbo: float | None = None) -> None:
        """Saves `state` under its step, once; `elbo` is its validation ELBO in nats if known."""
        self._await_save()
        self._tell_failure()
        step = int(state.step)
        self._under_way, self._failure = step, ""
        # A NaN would compare as the best of all.
        metrics = None if elbo is None else {"elbo": float(elbo) if np.isfinite(elbo) else -np.inf}
        repeated = _find_repeated(state)
        to_verify = {"crc32": compute_checksums(state), "repeated": repeated, **(metrics or {})}
        try:
            if step not in self._manager.all_steps():
                self._manager.save(
                    step,
                    args=StandardSave(_replace_repeated(state, repeated, _placeholder)),
                    metrics=metrics,
                    custom_metadata=to_verify,
                    force=True,
                )
        except Exception as error:  # orbax raises many types
            self._give_up_save(error)

    def report_failed_save(self) -> None:
        """Warns where the last save has failed; waits for nothing."""
        if self._under_way is not None and not self._manager.is_saving_in_progress():
            self._await_save()
        self._tell_failure()

    def require_saved(self) -> None:
        """Waits for the save under way.

        Raises:
          CheckpointNotSavedError: what was to be saved last is not on disk.
        """
        self._await_save()
        self._failure_is_told = True
        if self._failure:
            raise CheckpointNotSavedError(
                f"{self._failure} Put that right and give the same command again."
            )

    def _await_save(self) -> None:
        try:
            if self._under_way is not None:
                self._manager.wait_until_finished()
        except Exception as error:  # orbax raises many types
            self._give_up_save(error)
        self._under_way = None

    def _give_up_save(self, error: Exception) -> None:
        """Leaves the directory as it was before the save under way."""
        step, self._under_way = self._under_way, None
        LOGGER.debug("Traceback:", exc_info=error)
        manager = self.__dict__.pop("_manager", None)  # it is in no state to go on
        if jax.process_count() > 1:  # the others would wait for this one for ever
            raise CheckpointNotSavedError(
                f"Checkpoint {step} could not be saved in {self._workdir / DIRECTORY} "
                f"({_reason(error)}). Put that right and give the same command again."
            ) from error
        with contextlib.suppress(Exception):
            if manager:
                manager.close()
        for unfinished in (self._workdir / DIRECTORY).glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if step in self.steps():
            LOGGER.warning("After checkpoint %d was saved: %s.", step, _reason(error))
            return
        good = f"the last good one is {max(self.steps())}" if self.steps() else "there is none yet"
        self._failure = (
            f"Checkpoint {step} could not be saved in {self._workdir / DIRECTORY} "
            f"({_reason(error)}); {good}."
        )
        self._failure_is_told = False

    def _tell_failure(self) -> None:
        if not self._failure_is_told:
            LOGGER.warning("%s The next checkpoint is tried all the same.", self._failure)
        self._failure_is_told = True

    def restore(self, template: TrainState, which: str | int = "best") -> TrainState:
        """One checkpoint, with the shapes, types and shardings of `template`.

        Args:
          template: a state, or the shapes of one (`jax.eval_shape`).
          which: 'best' (by validation ELBO), 'latest', or a step.

        Raises:
          ValueError: `which` is none of these.
          FileNotFoundError: there is no such checkpoint.
          CheckpointsDamagedError: it cannot be read.
        """
        steps = self.steps()
        if which == "best":
            step = self.best_step()
        elif which == "latest":
            step = max(steps, default=None)
        elif str(which).isdigit():
            step = int(which)
        else:
            raise InputError(
                f"checkpoint {which!r} must be 'best', 'latest' or one of the steps {steps}."
            )
        if step not in steps:
            raise NotFoundError(
                f"checkpoint {which!r} is not in {self._workdir / DIRECTORY}: it holds the steps "
                f"{steps}. Train first, or name one of these."
            )
        try:
            restored = self._restore_step(template, step)
        except NOT_DAMAGE:
            raise
        except Exception as error:  # orbax raises many types for missing or truncated files
            raise CheckpointsDamagedError(
                f"Checkpoint {step} in {self._workdir / DIRECTORY} cannot be read "
                f"({_first_line(error)}): name another of the steps {steps}, or train on, which "
                "falls back to an intact one."
            ) from error
        return _place(restored, template)

    def restore_latest_intact(self, template: TrainState) -> TrainState | None:
        """The newest checkpoint that can be read, or None where there is none at all.

        Damaged newer ones are moved to `damaged_checkpoints/`: training can write their steps anew.

        Raises:
          CheckpointsDamagedError: there are checkpoints, and none can be read; none is moved.
        """
        found = None
        if sharding.is_main_process():
            found = self._find_latest_intact(template)
            self._set_torn_aside()
        step = sharding.broadcast(found[0] if found else -1)  # what all processes must agree on
        if step < 0:
            return None
        return _place(found[1] if found else self._restore_step(template, step), template)

    def _find_latest_intact(self, template: TrainState) -> tuple[int, TrainState] | None:
        """(its step, its state), or None where there is no checkpoint at all."""
        damaged: dict[int, Exception] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._restore_step(template, step)
            except NOT_DAMAGE:
                raise
            except Exception as error:  # as above
                damaged[step] = error
                continue
            for damaged_step, error in damaged.items():
                self._set_aside(damaged_step, error)
            return step, restored
        if damaged:
            newest = max(damaged)
            raise CheckpointsDamagedError(
                f"No checkpoint in {self._workdir} can be read; that of step {newest}: "
                f"{_first_line(damaged[newest])}. If the model's code has changed, go back to the "
                f"commit in config.json; to train from step 0, give another --workdir."
            ) from damaged[newest]
        return None

    def _restore_step(self, template: TrainState, step: int) -> TrainState:
        """As NumPy arrays."""
        # By this process alone: one that waited for the others here would wait for ever where
        # another has found the checkpoint damaged.
        index = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
        )
        repeated = self._read_to_verify(step).get("repeated", [])
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
        arrays = _replace_repeated(arrays, repeated, _placeholder)
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            restored = checkpointer.restore(self._path(step) / "default", arrays)
        # Copies: training donates the state, and one buffer cannot be donated twice.
        restored = _replace_repeated(restored, repeated, np.copy)
        self._read_elbo(step)
        jax.tree.map_with_path(_check_shape, restored, template)
        saved = self._read_to_verify(step).get("crc32")
        if saved is not None:
            actual = compute_checksums(restored)
            differing = [name for name in actual | saved if actual.get(name) != saved.get(name)]
            if differing:
                raise ValueError(f"{differing[0]} has another checksum than when it was saved")
        return restored

    def _read_elbo(self, step: int) -> float | None:
        """The validation ELBO saved with a checkpoint, None without; ValueError where damaged."""
        path = self._path(step) / "metrics" / "metrics"
        elbo = _get_elbo(json.loads(path.read_text())) if path.exists() else None
        saved = self._read_to_verify(step).get("elbo", elbo)
        if elbo != saved:
            raise ValueError(f"its validation ELBO is {elbo} and was {saved} when it was saved")
        return elbo

    def _read_to_verify(self, step: int) -> dict:
        """Checksums, repeated arrays and ELBO of a checkpoint; empty for earlier versions'."""
        path = self._path(step) / METADATA_FILE
        content = json.loads(path.read_text()) if path.exists() else {}
        return content.get("custom_metadata") or {}

    def _set_torn_aside(self) -> None:
        if sharding.is_main_process():
            for step in self.steps():
                try:
                    self._read_elbo(step)
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


def _check_shape(path, array: np.ndarray, like) -> None:
    if array.shape != like.shape:
        name = jax.tree_util.keystr(path)
        raise ValueError(f"{name} has shape {array.shape} there, the model's is {like.shape}")


def _place(state: TrainState, template: TrainState) -> TrainState:
    """`state`, which every process has as a whole, on the devices of `template`."""

    def place(array, like):
        return jax.make_array_from_callback(array.shape, like.sharding, array.__getitem__)

    return jax.tree.map(place, state, template)


def _first_line(error: Exception) -> str:
    """Without what tensorstore appends to its messages, kilobytes of settings."""
    line = (str(error).splitlines() or [""])[0].split(" [tensorstore_spec")[0]
    return line or type(error).__name__


def _reason(error: Exception) -> str:
    """Why something could not be written; tensorstore has the system's error number in its text."""
    number = getattr(error, "errno", None)
    in_text = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None and in_text:
        number = int(in_text[1])
    return _first_line(error) if number is None else os.strerror(number)
