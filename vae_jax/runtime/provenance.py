"""Provenance of a run: the code, packages and hardware that it ran with."""

import datetime
import pathlib
import platform
import shutil
import subprocess
from importlib import metadata

import jax

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
