"""Watches a run: validation, early stop, diagnosis, and updates that are not finite."""

import contextlib
import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vae_jax import doctor
from vae_jax.checkpoints.state import TrainState
from vae_jax.data import Split
from vae_jax.errors import UserError
from vae_jax.experiment import Experiment
from vae_jax.inference import TrainedVAE, create_steps
from vae_jax.recording import figures, writers
from vae_jax.runtime import sharding
from vae_jax.streams import stream
from vae_jax.tasks import readers

LOGGER = logging.getLogger(__name__)

# Evaluates the model during training. The scalar `elbo` of the summary, in nats, decides which
# checkpoint is the best.
EvaluateFn: TypeAlias = Callable[[TrainedVAE, Split], writers.Summary]


START_AGAIN = (
    "Start again in a new --workdir with a lower optim.learning_rate or optim.clip_norm, or a "
    "longer optim.warmup_steps or kl.warmup_steps; the checkpoints before these steps are intact."
)


class TrainingDivergedError(UserError, FloatingPointError):
    """Updates in a row were skipped, or the parameters or the last ELBO are not finite."""


def check_not_diverged(metrics: Mapping[str, np.ndarray], last_step: int, limit: int) -> None:
    """Raises a TrainingDivergedError if `limit` updates in a row were skipped.

    Args:
      metrics: metrics of the training step, by name, as arrays with one value per step.
      last_step: number of the last step in the arrays, counted from 1.
      limit: number of skipped updates in a row that ends the training.
    """
    in_a_row = metrics["skipped_in_a_row"]
    if in_a_row.max(initial=0) < limit:
        return
    position = int(np.argmax(in_a_row >= limit))
    end = last_step - len(in_a_row) + 1 + position
    start = end - int(in_a_row[position]) + 1
    terms = [t for t in ("distortion", "rate", "loss", "grad_norm") if t in metrics]
    term = next((t for t in terms if not np.isfinite(metrics[t][position])), "gradient")
    raise TrainingDivergedError(
        f"Steps {start} to {end}: {limit} updates in a row were skipped because a gradient was not "
        f"finite (optim.max_skipped_in_a_row = {limit}). The first non-finite term is the {term}. "
        f"{START_AGAIN}"
    )


def check_finite(state: TrainState) -> None:
    """Raises a TrainingDivergedError if a parameter is not finite.

    Updates with a gradient that is not finite are skipped, but a finite one may be too large.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(state.params)
    finite = jax.device_get([jnp.isfinite(leaf).all() for _, leaf in paths])
    bad = [
        jax.tree_util.keystr(path) for (path, _), ok in zip(paths, finite, strict=True) if not ok
    ]
    if bad:
        raise TrainingDivergedError(
            f"Step {int(state.step)}: {len(bad)} arrays of parameters are not finite, the first is "
            f"{bad[0]}, so this state is not saved. {START_AGAIN}"
        )


def check_final_elbo(elbo: float) -> None:
    """Raises a TrainingDivergedError if the last validation ELBO of a run is not finite."""
    if not math.isfinite(elbo):
        raise TrainingDivergedError(
            f"The training has ended with a validation ELBO of {elbo}, because the parameters, or "
            f"what the model computes from them, overflow. {START_AGAIN}"
        )


def is_out_of_patience(elbos: Sequence[float], patience: int) -> bool:
    """Returns whether the last `patience` ELBOs are no better than the best one before them.

    Args:
      elbos: validation ELBOs in the order of the evaluations, nats.
      patience: number of evaluations to wait for a better one; 0: for ever.
    """
    if not patience or len(elbos) <= patience:
        return False
    values = np.nan_to_num(elbos, nan=-np.inf)
    return bool(values[-patience:].max() <= values[:-patience].max())


class Watch:
    """Evaluates a run at intervals, and finds out what is wrong with it.

    Args:
      experiment: what is trained.
      workdir: directory of the run.
      train, validation: splits of the run.
      evaluate_fn: evaluates the model on the validation images.
      mesh: devices of all processes.
      step: last step whose evaluation is recorded.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: pathlib.Path,
        train: Split,
        validation: Split,
        evaluate_fn: EvaluateFn,
        mesh: Mesh,
        step: int,
    ) -> None:
        self._experiment, self._plan = experiment, experiment.training
        self._workdir, self._evaluate_fn = workdir, evaluate_fn
        self._train, self._validation = train, validation
        self._is_main = sharding.is_main_process()
        self._steps = self._own_steps = create_steps(experiment, mesh)
        if mesh.is_multi_process:  # for what the main process does alone
            self._own_steps = create_steps(experiment)
        self._elbos = self._read_elbos(step)
        self._non_finite_located = False
        self._image_findings: list[doctor.Finding] | None = None

    def create_vae(self, state: TrainState) -> TrainedVAE:
        """Returns the model, which all processes must use together."""
        return TrainedVAE.from_state(self._experiment, state, self._steps)

    def evaluate(self, state: TrainState, writer: writers.MetricWriter | None) -> float:
        """Evaluates the model, writes the results, and returns the validation ELBO in nats.

        The writer is None in the processes other than the main one.
        """
        step = int(state.step)
        summary = self._evaluate_fn(self.create_vae(state), self._validation)
        if writer is not None:
            writer.write(step, "validation", summary)
            if self._plan.diagnose:  # after the record above, which it reads
                text = self._diagnose(state)
                writer.write(step, "validation", writers.Summary({}, texts={"diagnosis": text}))
                LOGGER.info("step %d: diagnosis: %s", step, text)
            for name, image in summary.images.items():
                figures.save_image(self._workdir / "images" / f"{name}_{step:08d}.png", image)
            figures.save_curves(self._workdir / "curves.png", writers.read_metrics(self._workdir))
        elbo = summary.scalars["elbo"]
        LOGGER.info("step %d: validation ELBO %.2f nats", step, elbo)
        if self.is_warm(step):
            self._elbos.append(elbo)
        return elbo

    def is_warm(self, step: float) -> bool:
        """Returns whether the KL weight has reached its final value.

        Only then are ELBOs compared: at a lower weight the codes may be far from the prior.
        """
        return step >= self._plan.kl_warmup_end

    def is_out_of_patience(self) -> bool:
        """Returns whether the run should end because its validation ELBO does not rise."""
        return is_out_of_patience(self._elbos, self._plan.patience)

    def _read_elbos(self, last_step: int) -> list[float]:
        """Reads the validation ELBOs after the warm-up, up to a step."""
        name = "validation/elbo"
        return [
            record[name]
            for record in writers.read_metrics(self._workdir)
            if name in record and record["step"] <= last_step and self.is_warm(record["step"])
        ]

    def locate_non_finite(
        self,
        state: TrainState,
        metrics: Mapping[str, np.ndarray],
        batch_indices: Callable[[int], np.ndarray],
    ) -> dict[str, str]:
        """Names the first non-finite tensor in the first skipped update since the last log point.

        It repeats that step with the present parameters. They are those of the step if all updates
        since were skipped; otherwise they are a few updates newer. It does so once in a run.

        Args:
          state: the present state.
          metrics: metrics since the last log point, by name, one value per step.
          batch_indices: function from a step to the positions of its images.

        Returns:
          {'non_finite': text}; empty if no update was skipped.
        """
        skipped_in_a_row = metrics["skipped_in_a_row"]
        is_due = self._plan.diagnose and self._is_main and not self._non_finite_located
        if not is_due or not skipped_in_a_row.any():
            return {}
        self._non_finite_located = True
        step = int(state.step) - len(skipped_in_a_row) + int(np.argmax(skipped_in_a_row > 0))
        task = self._experiment.task
        rows = {name: read(batch_indices(step)) for name, read in readers(self._train).items()}
        batch = task.prepare(rows, stream("train", self._plan.seed), step)
        kl_weight = float(self._experiment.kl_schedule(step))
        try:
            name = doctor.first_non_finite(task, jax.device_get(state.params), batch, kl_weight)
        except Exception as error:  # for example out of memory: this step is not compiled
            LOGGER.exception("Could not find the first non-finite tensor; training goes on.")
            name = f"not found ({type(error).__name__})"
        text = f"{name or 'not seen again with the present parameters'}, step {step + 1}"
        return {"non_finite": text}

    def check_not_diverged(self, metrics: Mapping[str, np.ndarray], last_step: int) -> None:
        """Raises a TrainingDivergedError, after a diagnosis, if the run has diverged."""
        try:
            check_not_diverged(metrics, last_step, self._plan.max_skipped_in_a_row)
        except TrainingDivergedError:
            if self._plan.diagnose and self._is_main:
                with contextlib.suppress(OSError):
                    self._diagnose()
            raise

    def _diagnose(self, state: TrainState | None = None) -> str:
        """Writes the diagnosis of the run so far, and returns it as text.

        An error in the diagnosis is logged but does not end a training of hours. Only the main
        process does this, on its own devices.

        Args:
          state: the present state; None: only the records are examined.
        """
        try:
            if self._image_findings is None:  # the images do not change
                self._image_findings = doctor.diagnose_images([self._train, self._validation])
            diagnosis = doctor.diagnose(
                self._experiment,
                writers.read_metrics(self._workdir),
                self._train,
                self._validation,
                None if state is None else self._create_own_vae(state),
                self._image_findings,
            )
            diagnosis.write(self._workdir)
        except OSError:  # for example a full disk, which stops all other output too
            raise
        except Exception as error:
            LOGGER.exception("The diagnosis failed; training goes on.")
            return f"failed: {type(error).__name__}: {error}"
        return str(diagnosis)

    def _create_own_vae(self, state: TrainState) -> TrainedVAE:
        """Returns a model that this process can use without the other processes."""
        if self._own_steps is not self._steps:
            everywhere = sharding.replicated(self._own_steps.mesh)
            state = dataclasses.replace(state, opt_state=())  # not used, and twice the parameters
            state = jax.device_put(jax.device_get(state), everywhere)
        return TrainedVAE.from_state(self._experiment, state, self._own_steps)
