"""Tests of vae_jax/runtime/memory.py."""

import types

import jax
import pytest

from vae_jax.runtime import memory
from vae_jax.runtime.memory import COMPARED, KEPT, MEASURED, num_in_memory


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3)])
def test_small_images_are_not_limited(shape):
    """These are the numbers of the doctor, the gallery and the grids."""
    for num_images, bytes_per_value in ((10_000, COMPARED), (10_000, KEPT), (1000, MEASURED)):
        assert num_in_memory(shape, num_images, bytes_per_value) == num_images


@pytest.mark.parametrize("shape", [(256, 256, 3), (2048, 2048, 1), (4096, 4096, 3)])
@pytest.mark.parametrize("bytes_per_value", [KEPT, COMPARED, MEASURED])
def test_large_images_take_at_most_the_memory_of_one_set(shape, bytes_per_value):
    height, width, num_channels = shape
    size = height * width * num_channels * bytes_per_value
    n = num_in_memory(shape, 10**9, bytes_per_value)
    assert n * size <= memory.HOST_BYTES < (n + 1) * size or n == 1


def test_one_image_is_always_held():
    assert num_in_memory((10**5, 10**5, 3), 8, MEASURED) == 1


def test_free_memory_of_cpus_is_that_of_the_host(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.free_bytes(jax.local_devices())
    assert 2**20 < free < 2**50
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")  # no limit
    assert memory.free_bytes(jax.local_devices()) > 2**20
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes(jax.local_devices()) == 4000
    # Most of what a container uses may be the cache of files, which the kernel gives back.
    (tmp_path / "memory.stat").write_text(
        "anon 100\nactive_file 300\ninactive_file 500\nfile 900\n"
    )
    assert memory.free_bytes(jax.local_devices()) == 4800


def test_free_memory_of_accelerators_is_their_own():
    stats = {"bytes_limit": 1000, "bytes_in_use": 300}
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    assert memory.free_bytes([device, device]) == 1400
