"""Mesh and shardings for data parallelism over local devices. Nothing else knows about devices."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One `data` axis over `devices`, by default all local ones."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: parameters, resident images."""
    return NamedSharding(mesh, PartitionSpec())


def split_axis(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """`axis` divided among the devices: the batch axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def check_batch_size(key: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError unless the batch divides evenly among the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"{key} = {batch_size} must be a positive multiple of the number of devices, "
            f"{mesh.size}."
        )
