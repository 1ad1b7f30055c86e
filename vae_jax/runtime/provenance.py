"""Provenance of a run: the code, packages and hardware that it ran with."""

import datetime
import pathlib
import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

import jax

from vae_jax.streams import KEY_KIND

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def collect_provenance() -> dict[str, object]:
    """Returns what is needed, in addition to the configuration, to reproduce the run's numbers."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _run_git("rev-parse", "HEAD"),
        "git_modified_files": _run_git("status", "--porcelain", "--untracked-files=no"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "num_processes": jax.process_count(),
        "processor": platform.processor() or platform.machine(),
        "jax_settings": jax_settings(),
    }


def jax_settings() -> dict[str, object]:
    """Returns JAX's settings on which the numbers of a run depend, as they are in this thread."""
    # JAX adds the attributes of its options at run time.
    config: Any = jax.config
    return {
        "key_kind": KEY_KIND,
        "enable_x64": config.jax_enable_x64,
        "threefry_partitionable": config.jax_threefry_partitionable,
        "default_matmul_precision": config.jax_default_matmul_precision,
    }


def _run_git(*arguments: str) -> str | None:
    """Returns git's output about this source tree, or None without git or outside a repository."""
    if shutil.which("git") is None:
        return None
    directory = pathlib.Path(__file__).parent
    result = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return result.stdout.strip() if result.returncode == 0 else None
