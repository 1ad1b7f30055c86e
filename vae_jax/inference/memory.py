"""How many images a model can evaluate at a time."""

import logging
import math

from jax.sharding import Mesh

from vae_jax.errors import InputError
from vae_jax.models import VAE
from vae_jax.runtime import sharding
from vae_jax.runtime.memory import free_bytes, in_gigabytes

LOGGER = logging.getLogger(__name__)
SHARE = 0.25  # of the free memory, for one batch


def bytes_per_image(model: VAE) -> int:
    """Estimates the memory that a model takes to evaluate one image, without its parameters.

    XLA keeps a few copies of the image, of the likelihood's parameters and of the largest feature
    maps. The factors are upper bounds on what it allocates for various models on a CPU, by up to
    2.5 times.
    """
    height, width, num_channels = model.image_shape
    sides = [model.patch_size * 2**i for i in range(len(model.widths))]
    num_features = max(w / side**2 for w, side in zip(model.widths, sides, strict=True))
    floats_per_pixel = 4 * num_channels + 3 * model.num_outputs + 5 * num_features
    return math.ceil(4 * height * width * floats_per_pixel)


def max_batch_size(model: VAE, batch_size: int, mesh: Mesh) -> int:
    """Returns how many images fit into a quarter of the free memory: a power of two per device.

    It logs a line if `batch_size`, the value of eval.batch_size, is larger.

    Raises:
      InputError: not even one image per device fits into all of the free memory.
    """
    devices, shape = mesh.local_devices, "x".join(map(str, model.image_shape))
    needed, free = len(devices) * bytes_per_image(model), free_bytes(devices)
    if mesh.is_multi_process:  # all processes must agree
        free = int(sharding.broadcast(float(free)))
    if needed > free:
        raise InputError(
            f"An image of {shape} on each of {len(devices)} devices takes about "
            f"{in_gigabytes(needed)} to evaluate, but only {in_gigabytes(free)} of memory are "
            "free: free some, use fewer devices, or train with a larger model.patch_size, smaller "
            "model.widths or smaller images."
        )
    largest = mesh.size * 2 ** int(math.log2(max(1.0, SHARE * free / needed)))
    if batch_size > largest:
        LOGGER.info(
            "eval.batch_size = %d would take about %s for images of %s: %d images at a time are "
            "evaluated.",
            *(batch_size, in_gigabytes(batch_size * bytes_per_image(model)), shape, largest),
        )
    return largest
