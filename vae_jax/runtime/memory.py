"""How much memory is free, and how many images NumPy arrays may hold at a time."""

import math
import os
import pathlib
from collections.abc import Sequence

import jax

# For one set of images on the host. It is the same on every machine, and with it the number of
# images that are examined or shown, so that an evaluation gives the same results everywhere.
HOST_BYTES = 2**30
# Bytes for each value of images that are kept as uint8, compared as float64, or decoded and
# measured, for which NumPy makes several float64 copies.
KEPT, COMPARED, MEASURED = 1, 8, 32
CGROUP = pathlib.Path("/sys/fs/cgroup")  # where a container finds its own limit


def num_in_memory(image_shape: Sequence[int], num_images: int, bytes_per_value: int) -> int:
    """Returns how many of `num_images` images to hold at a time on the host; at least 1.

    Args:
      image_shape: (H, W, C).
      num_images: number of images if they are small enough.
      bytes_per_value: `KEPT`, `COMPARED` or `MEASURED`.
    """
    limit = HOST_BYTES // (bytes_per_value * math.prod(image_shape))
    return max(1, min(num_images, limit))


def free_bytes(devices: Sequence[jax.Device]) -> float:
    """Returns the free memory of the devices together, or of the host if they are CPUs."""
    stats = [device.memory_stats() for device in devices]
    if all(stats):
        return sum(s["bytes_limit"] - s["bytes_in_use"] for s in stats if s)
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read(pathlib.Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024 * int(line.split()[1])
    return min(free, _free_in_container())


def _free_in_container() -> float:
    """Returns what the limit of a container leaves free; infinity without a limit.

    The cache of files counts as free, because the kernel gives it back.
    """
    limit, used = (_read(CGROUP / name).strip() for name in ("memory.max", "memory.current"))
    if not (limit.isdigit() and used.isdigit()):
        return math.inf
    lines = (line.split() for line in _read(CGROUP / "memory.stat").splitlines())
    cache = sum(int(line[1]) for line in lines if line[0] in ("active_file", "inactive_file"))
    return int(limit) - int(used) + cache


def in_gigabytes(num_bytes: float) -> str:
    """Returns a number of bytes in words, such as '1.5 GB'."""
    return f"{num_bytes / 1e9:.2g} GB"


def _read(path: pathlib.Path) -> str:
    """Returns the text of a file, or nothing if this system has no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
