"""Checkpoints of a workdir: the only file that imports orbax."""

import logging
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.args import StandardRestore, StandardSave

from vae_jax.state import TrainState

LOGGER = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
DAMAGED_DIRECTORY = "damaged_checkpoints"


def _elbo(metrics: dict) -> float:
    return metrics["elbo"]


class Checkpoints:
    """The latest `num_latest` checkpoints of a workdir and the best by validation ELBO.

    Saving is asynchronous: `close` (or leaving the `with` block) waits for what is under way.
    """

    def __init__(self, workdir: str | pathlib.Path, num_latest: int = 1, read_only: bool = False):
        self._workdir = pathlib.Path(workdir).absolute()  # orbax refuses relative paths
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(num_latest),
                checkpoint_managers.BestN(
                    get_metric_fn=_elbo, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else policy,
            best_fn=_elbo,
            read_only=read_only,
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(self._workdir / DIRECTORY, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for saves under way and releases the manager's threads."""
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, elbo: float | None = None) -> None:
        """Saves `state` under its step, once; `elbo` is its validation ELBO in nats if known."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # A NaN would compare as the best of all.
        metrics = None if elbo is None else {"elbo": elbo if np.isfinite(elbo) else -np.inf}
        self._manager.save(step, args=StandardSave(state), metrics=metrics, force=True)

    def restore(self, template: TrainState, which: str | int = "best") -> TrainState:
        """One checkpoint, with the shapes, types and shardings of `template`.

        Args:
          template: a state, or the shapes of one (`jax.eval_shape`).
          which: 'best' (by validation ELBO), 'latest', or a step.

        Raises:
          FileNotFoundError: there is no such checkpoint.
        """
        steps = self.steps()
        if which == "best":
            step = self._manager.best_step()
            step = self._manager.latest_step() if step is None else step
        else:
            step = self._manager.latest_step() if which == "latest" else int(which)
        if step not in steps:
            raise FileNotFoundError(
                f"checkpoint {which!r} is not in {self._workdir / DIRECTORY}: it holds the steps "
                f"{steps}. Train first, or name one of these."
            )
        return self._restore_step(template, step)

    def restore_latest_intact(self, template: TrainState) -> TrainState | None:
        """The newest checkpoint that can be read, or None where there is none at all.

        Damaged ones are moved to `damaged_checkpoints/`: training can write these steps anew.

        Raises:
          RuntimeError: there are checkpoints, and none can be read.
        """
        failure = None
        for step in reversed(self.steps()):
            try:
                return self._restore_step(template, step)
            except Exception as error:  # orbax raises many types for missing or truncated files
                failure = error
                moved = self._workdir / DAMAGED_DIRECTORY / str(step)
                LOGGER.warning(
                    "Checkpoint %d is damaged (%s): moved to %s, falling back to the one before.",
                    step,
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                    moved,
                )
                shutil.rmtree(moved, ignore_errors=True)
                moved.parent.mkdir(exist_ok=True)
                shutil.move(self._workdir / DIRECTORY / str(step), moved)
                self._manager.reload()
        if failure is not None:
            raise RuntimeError(
                f"No checkpoint in {self._workdir} can be read; all were moved to "
                f"{DAMAGED_DIRECTORY}/. Start again to train from step 0."
            ) from failure
        return None

    def _restore_step(self, template: TrainState, step: int) -> TrainState:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        return self._manager.restore(step, args=StandardRestore(abstract))
