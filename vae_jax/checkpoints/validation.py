"""The validation ELBO of a checkpoint, which is known only after the checkpoint is written.

A state is saved before it is evaluated, so that nothing is lost if the evaluation fails. The file
evaluation.json inside the checkpoint is written when the evaluation is done. Earlier versions saved
after the evaluation, with the ELBO among orbax's metrics.
"""

import json
import pathlib
import zlib
from typing import Any

import numpy as np

from vae_jax import files
from vae_jax.errors import UserError

FILE = "evaluation.json"
EARLIER_FILE = pathlib.Path("metrics") / "metrics"
METADATA_FILE = "_CHECKPOINT_METADATA"  # of orbax; its custom_metadata is what `save` was given
SAVED_FIRST = "saved_before_evaluation"  # key there, in checkpoints of this version


def read_metadata(directory: pathlib.Path) -> dict[str, Any]:
    """Reads what was stored to verify a checkpoint; empty if an early version saved it.

    Raises:
      ValueError: the file is damaged.
    """
    path = directory / METADATA_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    metadata = (content.get("custom_metadata") or {}) if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError(f"{METADATA_FILE} is not a mapping")
    return metadata


def write(directory: pathlib.Path, elbo: float, counts: bool) -> None:
    """Notes that the checkpoint in `directory` was evaluated.

    Args:
      directory: the checkpoint.
      elbo: validation ELBO, nats.
      counts: whether it may be compared with those of other checkpoints.
    """
    content: dict[str, Any] = {"elbo": float(elbo), "counts": counts}
    files.write_json(directory / FILE, {**content, "crc32": _checksum(content)})


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(f"{content['elbo']!r} {content['counts']!r}".encode())


def _read(directory: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of evaluation.json; None if it is missing or damaged."""
    try:
        content = files.parse_json(files.read_text(directory / FILE))
        return content if content["crc32"] == _checksum(content) else None
    except (UserError, ValueError, KeyError, TypeError):
        return None


def is_evaluated(directory: pathlib.Path) -> bool:
    """Returns whether the checkpoint in `directory` was evaluated."""
    return SAVED_FIRST not in read_metadata(directory) or _read(directory) is not None


def read_elbo(directory: pathlib.Path) -> float | None:
    """Returns the ELBO by which a checkpoint is compared, nats; None if there is none.

    One that is not finite is -inf: a NaN would compare as the best of all.

    Raises:
      ValueError, KeyError: an earlier version saved the checkpoint, and its ELBO is damaged.
    """
    metadata, content = read_metadata(directory), _read(directory)
    if content is not None:
        finite = content["elbo"] if np.isfinite(content["elbo"]) else -np.inf
        return finite if content["counts"] else None
    if SAVED_FIRST in metadata:
        return None
    path = directory / EARLIER_FILE
    elbo = json.loads(path.read_text(encoding="utf-8"))["elbo"] if path.exists() else None
    saved = metadata.get("elbo", elbo)
    if elbo != saved:
        raise ValueError(f"its validation ELBO is {elbo}, but {saved} was saved")
    return elbo
