"""Traces a few training steps, for TensorBoard's profile plugin or ui.perfetto.dev."""

import logging
import pathlib

import jax

from vae_jax.typing import PyTree

LOGGER = logging.getLogger(__name__)

DIRECTORY = "profile"
FIRST_STEP, LAST_STEP = 20, 25  # counted from the start of the process, long after compilation


class StepTracer:
    """Traces the calls of the train step that contain the steps FIRST_STEP to LAST_STEP.

    Args:
      workdir: directory in which profile/ is created.
      first_step: step that the process starts from.
      steps_per_call: training steps per call; the first call compiles and is never traced.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, steps_per_call: int) -> None:
        self._directory = workdir / DIRECTORY
        # The trace begins and ends after these steps, counted from 1.
        self._begin = first_step + max((FIRST_STEP - 1) // steps_per_call, 1) * steps_per_call
        self._end = max(first_step + LAST_STEP, self._begin + 1)
        self._is_tracing = False

    def after_call(self, step: int, result: PyTree) -> None:
        """Begins or ends the trace; to be called after each call of the train step.

        Args:
          step: last step of the call.
          result: arrays that the call returned.
        """
        if not self._is_tracing and self._begin <= step < self._end:
            jax.block_until_ready(result)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # calls of Python functions would bury the steps
            jax.profiler.start_trace(
                self._directory, create_perfetto_trace=True, profiler_options=options
            )
            self._is_tracing = True
        elif self._is_tracing and step >= self._end:
            jax.block_until_ready(result)
            self.close()
            LOGGER.info(
                "Steps %d to %d are traced in %s: run tensorboard --logdir %s, or open "
                "perfetto_trace.json.gz from there in ui.perfetto.dev.",
                self._begin + 1,
                step,
                self._directory,
                self._directory,
            )

    def close(self) -> None:
        """Ends a trace that is still open when the run ends or is stopped."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing = False
