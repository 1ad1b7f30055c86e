"""The batch size and the steps per call that are nearly as fast as any, found by trying them."""

import logging
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vae_jax import experiment
from vae_jax.checkpoints import state
from vae_jax.runtime import sharding
from vae_jax.training import steps
from vae_jax.training.steps import create_train_step

LOGGER = logging.getLogger(__name__)
SMALLEST_BATCH, LARGEST_BATCH = 16, 4096  # images over all devices
NEARLY = 0.95  # of the best speed: what a smaller batch may cost, for its more frequent updates
SECONDS = 1.0  # of each measurement, after a call that compiles


def resolve(
    config: ConfigDict, image_shape: tuple[int, int, int], num_images: int, mesh: Mesh
) -> ConfigDict:
    """`config` with numbers for train.batch_size = 'auto' and then for train.steps_per_call = 0.

    The learning rate stays as it is: it belongs to a batch size, so look at it again.

    Args:
      config: of the run.
      image_shape: (H, W, C).
      num_images: of the training split: no batch is larger.
      mesh: to train on.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        steps_per_call = experiment.steps_per_call(config)
        config.train.steps_per_call = 1
        sizes = batch_sizes(num_images, mesh.size * config.train.accumulation_steps)
        config.train.batch_size = choose(
            "train.batch_size", sizes, lambda n: _measure(config, image_shape, mesh, n, 1)
        )
        numbers = sorted({n for n in (1, 10, steps_per_call) if steps_per_call % n == 0})
        config.train.steps_per_call = choose(
            "train.steps_per_call",
            numbers,
            lambda n: _measure(config, image_shape, mesh, config.train.batch_size, n),
        )
    return config.lock()


def batch_sizes(num_images: int, divisor: int) -> list[int]:
    """Candidates: each twice the one before, multiples of `divisor`, at most `num_images`."""
    smallest = -(-SMALLEST_BATCH // divisor) * divisor
    sizes = [smallest * 2**i for i in range(LARGEST_BATCH.bit_length())]
    return [n for n in sizes if n <= min(LARGEST_BATCH, num_images)] or [divisor]


def choose(key: str, candidates: Iterable[int], measure: Callable[[int], float]) -> int:
    """The smallest candidate whose speed is at least NEARLY that of the fastest.

    Args:
      key: what is chosen, for the log.
      candidates: in ascending order. Two in a row that bring nothing, or one that does not fit into
        memory, end the search.
      measure: from a candidate to its images per second.
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


def _measure(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    mesh: Mesh,
    batch_size: int,
    steps_per_call: int,
) -> float:
    """Images per second of the train step, on random images that lie on the devices."""
    everywhere = sharding.replicated(mesh)
    model = experiment.create_model(config, image_shape)
    tx = experiment.create_optimizer(config)
    create = jax.jit(
        lambda key: state.create_train_state(model, tx, key, bool(config.vae_workdir)),
        out_shardings=everywhere,
    )
    train_steps = steps.jit_train_steps(
        create_train_step(config, image_shape), mesh, steps_per_call
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *image_shape), dtype=np.uint8)
    images = jax.device_put(images, everywhere)
    indices = np.tile(np.arange(batch_size, dtype=np.int32), (steps_per_call, 1))
    batches = sharding.put(lambda rows: indices[:, rows], indices.shape, mesh, axis=1)
    key = jax.random.key(0)
    train_state, _ = train_steps(create(key), images, batches, key)

    def time_calls(num_calls: int) -> float:
        nonlocal train_state
        jax.block_until_ready(train_state)
        start = time.perf_counter()
        for _ in range(num_calls):
            train_state, _ = train_steps(train_state, images, batches, key)
        jax.block_until_ready(train_state)
        # One process's time, so that all make the same number of calls and the same choice.
        return sharding.broadcast(time.perf_counter() - start)

    num_calls = max(1, round(SECONDS / time_calls(1)))
    return num_calls * batch_size * steps_per_call / time_calls(num_calls)
