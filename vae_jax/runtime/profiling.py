"""A trace of a few training steps, for TensorBoard's profile plugin or ui.perfetto.dev."""

import logging
import pathlib

import jax

LOGGER = logging.getLogger(__name__)

DIRECTORY = "profile"
FIRST_STEP, LAST_STEP = 20, 25  # counted from the start of the process, compilation long past


class StepTracer:
    """Traces the calls of the train step that contain the steps FIRST_STEP to LAST_STEP.

    Args:
      workdir: profile/ is made here.
      first_step: step that the process starts from.
      steps_per_call: of the train step; the first call compiles and is never traced.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, steps_per_call: int):
        self._directory = workdir / DIRECTORY
        # Numbers of the steps, counted from 1, after which the trace begins and ends.
        self._begin = first_step + max((FIRST_STEP - 1) // steps_per_call, 1) * steps_per_call
        self._end = max(first_step + LAST_STEP, self._begin + 1)
        self._is_tracing = False

    def after_call(self, step: int, result) -> None:
        """To be called after each call, with its last step and what it returned."""
        if not self._is_tracing and self._begin <= step < self._end:
            jax.block_until_ready(result)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of a Python function would bury the steps
            jax.profiler.start_trace(
                self._directory, create_perfetto_trace=True, profiler_options=options
            )
            self._is_tracing = True
        elif self._is_tracing and step >= self._end:
            jax.block_until_ready(result)
            self.close()
            LOGGER.info(
                "Steps %d to %d are traced in %s: tensorboard --logdir %s, or "
                "perfetto_trace.json.gz there in ui.perfetto.dev.",
                self._begin + 1,
                step,
                self._directory,
                self._directory,
            )

    def close(self) -> None:
        """Ends a trace that the run's end or its stop cut short."""
        if self._is_tracing:
            jax.profiler.stop_trace()
            self._is_tracing = False
