"""The metrics of training: collected on the device, written as means at each log point."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from tqdm import tqdm

from vae_jax import objectives
from vae_jax.experiment import Experiment
from vae_jax.recording import writers

LOGGER = logging.getLogger(__name__)


class TrainingLog:
    """Collects the metrics of training steps, and measures the speed of training.

    Args:
      experiment: what is trained.
      writer: writer of the records; None in the processes other than the main one.
      bar: progress bar, which counts steps.
    """

    def __init__(
        self, experiment: Experiment, writer: writers.MetricWriter | None, bar: tqdm
    ) -> None:
        self._experiment, self._writer, self._bar = experiment, writer, bar
        self._window: list[dict[str, jax.Array]] = []  # metrics since the last log point
        self._is_compiled = False
        # The images and the start time from which the speed is computed.
        self._num_images, self._timer = 0, time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of one call, by name, one value per step.

        The first call compiles: its time is logged, and left out of the speed.
        """
        num_steps = len(metrics["loss"])
        self._window.append(metrics)
        self._num_images += num_steps * self._experiment.training.batch_size
        self._bar.update(num_steps)
        if not self._is_compiled:
            self._is_compiled = True
            jax.block_until_ready(metrics)
            seconds = time.perf_counter() - self._timer
            LOGGER.info("The first call took %.1f s, including compilation.", seconds)
            self.restart_timer()

    def collect(self) -> dict[str, np.ndarray]:
        """Returns the metrics of all steps since the last log point, one value per step."""
        window, self._window = jax.device_get(self._window), []
        return {name: np.concatenate([m[name] for m in window]) for name in window[0]}

    def write(self, step: int, metrics: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
        """Writes the means of what `collect` returned, and shows some of them.

        Args:
          step: number of the last step.
          metrics: values of each metric.
          texts: texts to write with them.
        """
        scalars = {name: float(values.mean()) for name, values in metrics.items()}
        scalars["skipped_updates"] = float(metrics["skipped_updates"][-1])
        scalars["skipped_in_a_row"] = float(metrics["skipped_in_a_row"].max())
        scalars["grad_norm_max"] = float(metrics["grad_norm"].max())
        if self._experiment.likelihood.is_discrete and "elbo" in scalars:
            scalars["bits_per_dim"] = objectives.bits_per_dim(
                scalars["elbo"], self._experiment.image_shape
            )
        if self._num_images > 0:
            seconds = time.perf_counter() - self._timer
            scalars["images_per_second"] = self._num_images / seconds
        if self._writer is not None:
            self._writer.write(step, "train", writers.Summary(scalars, texts=texts))
        shown = [f"{name} {scalars[name]:.2f}" for name in ("elbo", "rate") if name in scalars]
        text = f"{', '.join(shown)}, {scalars.get('images_per_second', 0):.0f} images/s"
        self._bar.set_postfix_str(text)
        if not sys.stderr.isatty():
            num_steps = self._experiment.training.num_steps
            LOGGER.info("step %d of %d: %s", step, num_steps, text)

    def restart_timer(self) -> None:
        """Starts the measurement of the speed anew."""
        self._num_images, self._timer = 0, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the speed."""
        start = time.perf_counter()
        yield
        self._timer += time.perf_counter() - start
