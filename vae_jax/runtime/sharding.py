"""Mesh and shardings for data parallelism over devices and processes. Nothing else knows of them.

An array over a mesh that spans processes is whole only among all of them: what makes or reads one
(`put`, `fetch`, jitted functions) must be called by every process, in the same order.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.errors import InputError

# XLA's default on the CPU, YNNPACK for everything, takes 1.3 times as long for 3x3 convolutions as
# what it does without; for sums over positions it is much faster.
CPU_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One `data` axis over `devices`, by default all of this process."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: parameters, resident images."""
    return NamedSharding(mesh, PartitionSpec())


def split_axis(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """`axis` divided among the devices: the batch axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def put(
    rows: Callable[[slice], np.ndarray], shape: tuple[int, ...], mesh: Mesh, axis: int = 0
) -> jax.Array:
    """An array of `shape`, divided along `axis`; each process makes its own part of it only.

    Args:
      rows: from a slice of that axis to the array's part there.
      shape: of the whole.
      mesh: to divide it over.
      axis: to divide.
    """
    return jax.make_array_from_callback(
        shape, split_axis(mesh, axis), lambda index: rows(index[axis])
    )


def fetch(tree):
    """NumPy copies of whole arrays, on every process."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def broadcast(value: int | float) -> int | float:
    """The main process's value, on every process: for what must not differ between them."""
    return type(value)(multihost_utils.broadcast_one_to_all(jnp.asarray(value)))


def any_process(flag: bool) -> bool:
    """Whether `flag` holds on one process at least."""
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def check_batch_size(key: str, batch_size: int, mesh: Mesh, num_parts: int = 1) -> None:
    """Raises a ValueError unless each of `num_parts` divides evenly among the devices."""
    divisor = mesh.size * num_parts
    if batch_size < 1 or batch_size % divisor:
        parts = "" if num_parts == 1 else f", {mesh.size}, times that of accumulation steps"
        raise InputError(
            f"{key} = {batch_size} must be a positive multiple of the number of devices{parts}, "
            f"{divisor}."
        )


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Of jax.jit, for programs that train: on a CPU, and where this version of XLA knows them."""
    if mesh.devices.flat[0].platform != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=CPU_COMPILER_OPTIONS)()
    except jax.errors.JaxRuntimeError:
        return None
    return CPU_COMPILER_OPTIONS
