"""Chooses the batch size and the steps per call by measuring the speed of training.

It takes the smallest values that are nearly as fast as the fastest, because a smaller batch gives
more updates for the same number of images.
"""

import logging
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from vae_jax.experiment import Experiment
from vae_jax.runtime import sharding
from vae_jax.training import steps

LOGGER = logging.getLogger(__name__)
SMALLEST_BATCH, LARGEST_BATCH = 16, 4096  # images over all devices
NEARLY = 0.95  # fraction of the best speed that the chosen value must reach
SECONDS = 1.0  # approximate duration of each measurement, without compilation


def resolve(experiment: Experiment, num_images: int, mesh: Mesh) -> Experiment:
    """Measures and fills in train.batch_size = 'auto', and then train.steps_per_call.

    The learning rate is not adapted, although the best one depends on the batch size.

    Args:
      experiment: what is to be trained.
      num_images: number of training images; no batch is larger.
      mesh: devices to train on.

    Returns:
      The experiment with the chosen numbers.
    """
    steps_in_call = experiment.training.steps_in_call()
    sizes = batch_sizes(num_images, mesh.size * experiment.training.accumulation_steps)
    batch_size = choose("train.batch_size", sizes, lambda n: _measure(experiment, mesh, n, 1))
    numbers = sorted({n for n in (1, 10, steps_in_call) if steps_in_call % n == 0})
    steps_per_call = choose(
        "train.steps_per_call", numbers, lambda n: _measure(experiment, mesh, batch_size, n)
    )
    return experiment.with_batch(batch_size, steps_per_call)


def batch_sizes(num_images: int, divisor: int) -> list[int]:
    """Returns the candidates: multiples of `divisor`, each twice the one before.

    None is larger than `num_images`, unless `divisor` is.
    """
    smallest = -(-SMALLEST_BATCH // divisor) * divisor
    sizes = [smallest * 2**i for i in range(LARGEST_BATCH.bit_length())]
    return [n for n in sizes if n <= min(LARGEST_BATCH, num_images)] or [divisor]


def choose(key: str, candidates: Iterable[int], measure: Callable[[int], float]) -> int:
    """Returns the smallest candidate that reaches the fraction NEARLY of the best speed.

    Args:
      key: configuration key of the candidates, for the log.
      candidates: values in ascending order. The search ends after two values in a row that are not
        faster, or at one that does not fit into memory.
      measure: function from a candidate to its speed in images per second.
    """
    speeds: dict[int, float] = {}
    for candidate in candidates:
        try:
            speeds[candidate] = measure(candidate)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or not speeds:
                raise
            LOGGER.info("%s = %d: does not fit into memory", key, candidate)
            break
        LOGGER.info("%s = %d: %.0f images/s", key, candidate, speeds[candidate])
        nearly = [n for n in speeds if speeds[n] >= NEARLY * max(speeds.values())]
        if len([n for n in speeds if n > nearly[0]]) >= 2:
            break
    LOGGER.info("%s = %d is used.", key, nearly[0])
    return nearly[0]


def _measure(experiment: Experiment, mesh: Mesh, batch_size: int, steps_per_call: int) -> float:
    """Measures the images per second of training, on random images in device memory."""
    everywhere = sharding.replicated(mesh)
    create = jax.jit(experiment.create_state, out_shardings=everywhere)
    train_steps = steps.jit_train_steps(steps.create_train_step(experiment), mesh, steps_per_call)
    rng = np.random.default_rng(0)
    shape = (batch_size, *experiment.image_shape)
    rows = {"x": jax.device_put(rng.integers(0, 256, shape, dtype=np.uint8), everywhere)}
    indices = np.tile(np.arange(batch_size, dtype=np.int32), (steps_per_call, 1))
    batches = sharding.put(lambda rows: indices[:, rows], indices.shape, mesh, axis=1)
    key = jax.random.key(0)
    train_state, _ = train_steps(create(key), rows, batches, key)

    def time_calls(num_calls: int) -> float:
        nonlocal train_state
        jax.block_until_ready(train_state)
        start = time.perf_counter()
        for _ in range(num_calls):
            train_state, _ = train_steps(train_state, rows, batches, key)
        jax.block_until_ready(train_state)
        # The time of one process, so that all make the same number of calls and the same choice.
        return sharding.broadcast(time.perf_counter() - start)

    num_calls = max(1, round(SECONDS / time_calls(1)))
    return num_calls * batch_size * steps_per_call / time_calls(num_calls)
