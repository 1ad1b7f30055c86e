"""Reads the checkpoints of a workdir.

Orbax's manager is not used for this, because it refuses the whole directory if one checkpoint is
damaged.
"""

import contextlib
import logging
import pathlib
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp

from vae_jax.checkpoints import validation
from vae_jax.checkpoints.state import TrainState
from vae_jax.checkpoints.verification import (
    check_array_shape,
    compute_checksums,
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


class CheckpointsDamagedError(UserError, RuntimeError):
    """The requested checkpoint, or every checkpoint, is damaged."""


class CheckpointReader:
    """Reads the checkpoints of a workdir; writes nothing, but sets damaged ones aside if asked.

    Args:
      workdir: directory of the run.
    """

    def __init__(self, workdir: str | pathlib.Path) -> None:
        self._workdir = pathlib.Path(workdir).absolute()  # orbax refuses relative paths

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
            # One that is damaged, or that a run has just removed, is not the best.
            with contextlib.suppress(ValueError, KeyError, FileNotFoundError):
                elbo = validation.read_elbo(self._path(step))
                if elbo is not None:
                    elbos[step] = elbo
        return max(elbos, key=lambda step: elbos[step], default=None)

    def is_evaluated(self, step: int) -> bool:
        """Returns whether the checkpoint of this step was evaluated."""
        return validation.is_evaluated(self._path(step))

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
        while True:
            step = self._find(which)
            try:
                restored = self._restore_step(template, step)
                break
            except NOT_DAMAGE:
                raise
            except Exception as error:  # orbax raises many types for missing or truncated files
                steps = self.steps()
                if step not in steps:  # a run that goes on has just replaced it
                    continue
                raise CheckpointsDamagedError(
                    f"Checkpoint {step} in {self._workdir / DIRECTORY} cannot be read "
                    f"({first_line(error)}): name another of the steps {steps}, or continue the "
                    "training, which falls back to an intact one."
                ) from error
        return _place(restored, template)

    def _find(self, which: str | int) -> int:
        """Returns the step that `which` stands for; raises the errors of `restore`."""
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
        return step

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
                f"{first_line(damaged[newest])}. If the code of the model has changed, check out "
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
            "Checkpoint %d is damaged (%s): moved to %s.", step, first_line(error), moved
        )
        shutil.rmtree(moved, ignore_errors=True)
        moved.parent.mkdir(exist_ok=True)
        shutil.move(self._path(step), moved)


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


def first_line(error: Exception) -> str:
    """Returns the first line of a message, without the settings that tensorstore appends to it."""
    line = (str(error).splitlines() or [""])[0].split(" [tensorstore_spec")[0]
    return line or type(error).__name__
