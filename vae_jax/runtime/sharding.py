"""Mesh and shardings for data parallelism over devices and processes; all of it is in this file.

If a mesh spans several processes, each of them holds only a part of an array. Functions that create
or read such an array (`put`, `fetch`, jitted functions) must therefore be called by every process,
in the same order.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import InputError
from vae_jax.typing import PyTree


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over `devices`; by default all of this process."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole array, such as parameters, on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_axis(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that divides `axis`, such as the batch axis, among the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def put(
    rows: Callable[[slice], np.ndarray], shape: tuple[int, ...], mesh: Mesh, axis: int = 0
) -> jax.Array:
    """Returns an array divided along `axis`; each process creates only its own part.

    Args:
      rows: function from a slice of `axis` to that part of the array.
      shape: shape of the whole array.
      mesh: mesh over whose devices the array is divided.
      axis: axis to divide.
    """

    def make_part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # a NamedSharding gives every device a part
        return rows(index[axis])

    return jax.make_array_from_callback(shape, split_axis(mesh, axis), make_part)


def fetch(tree: PyTree) -> PyTree:
    """Returns NumPy copies of the whole arrays in `tree`, on every process."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def is_main_process() -> bool:
    """Returns whether this process is the one that writes files."""
    return jax.process_index() == 0


def broadcast(value: int | float) -> int | float:
    """Returns the main process's value on every process, for values that must not differ."""
    return type(value)(multihost_utils.broadcast_one_to_all(jnp.asarray(value)))


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is true on at least one process."""
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def check_batch_size(key: str, batch_size: int, mesh: Mesh, num_parts: int = 1) -> None:
    """Raises an InputError unless each of `num_parts` parts divides evenly among the devices.

    Args:
      key: config key of the batch size, named in the message.
      batch_size: number of images in the batch.
      mesh: mesh over whose devices the batch is divided.
      num_parts: number of accumulation steps.
    """
    divisor = mesh.size * num_parts
    if batch_size < 1 or batch_size % divisor:
        rule = f"devices, {divisor}"
        if num_parts > 1:
            rule = f"devices times accumulation steps, {mesh.size} x {num_parts} = {divisor}"
        raise InputError(
            f"{key} = {batch_size} must be a positive multiple of the number of {rule}: choose "
            "another batch size."
        )


def cpu_compiler_options(mesh: Mesh, options: dict[str, str]) -> dict[str, str] | None:
    """Returns these options of jax.jit for a CPU; None elsewhere, or if XLA does not know them."""
    if mesh.devices.flat[0].platform != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return None
    return options
