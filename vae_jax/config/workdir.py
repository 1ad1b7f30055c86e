"""The configuration in the workdir of a run: config.json.

`save` writes it and `load` reads it, also for runs of earlier versions. `update` notes what changed
when the run was resumed.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vae_jax import files
from vae_jax.config.keys import flatten, with_changes
from vae_jax.config.schema import IMAGE_SHAPE, check_each_value, unknown_and_missing
from vae_jax.errors import InputError, NotFoundError
from vae_jax.registry import Option, show
from vae_jax.runtime.names import resolve_workdir
from vae_jax.typing import ImageShape

CONFIG_FILE = "config.json"
# Further keys in config.json.
DATA_HASH = "data_sha256"  # the hash of the images
VAE_STARTED = "vae_started"  # when the run of the frozen VAE was started
HISTORY = "history"  # what changed when the run was resumed
PARTS = {  # of config.json
    "config": Option("must be a mapping", lambda value: isinstance(value, dict)),
    "image_shape": Option("must be a list", lambda value: isinstance(value, list)),
    "provenance": Option("must be a mapping", lambda value: isinstance(value, dict | None)),
    DATA_HASH: Option("must be a text", lambda value: isinstance(value, str | None)),
    VAE_STARTED: Option("must be a text", lambda value: isinstance(value, str | None)),
    HISTORY: Option("must be a list", lambda value: isinstance(value, list | None)),
}
REMEDY = "put back a copy, or give another --workdir."
# Keys that runs of earlier versions lack, with the values that reproduce how those runs behaved.
ADDED_KEYS = {
    "likelihood.gaussian_std": 1.0,
    "likelihood.reduction": "sum",
    "optim.ema_warmup": True,
    "optim.decay_steps": 0,
    "train.diagnose": False,
    "train.accumulation_steps": 1,
    "train.profile": False,
    "train.patience": 0,
    "model.remat": False,
    "vae_workdir": "",
    "prior.name": "standard_normal",
    "prior.num_components": 100,
    "prior.num_couplings": 8,
    "prior.widths": (64,),
    "prior.num_blocks": 2,
    "prior.attention_resolutions": (),
    "prior.weighting": "bound",
    "prior.sampler": "ddim",
    "prior.num_sampling_steps": 50,
    "prior.temperature": 1.0,
}


def save(
    config: Mapping[str, Any] | ConfigDict,
    image_shape: ImageShape,
    provenance: Mapping[str, object],
    workdir: pathlib.Path,
    data_hash: str | None = None,
    vae_started: str | None = None,
) -> None:
    """Writes config.json, which holds everything needed to rebuild the model without the data.

    Args:
      config: run configuration, nested or by dotted key.
      image_shape: (H, W, C) of the dataset.
      provenance: versions, git commit and hardware that produced the run.
      workdir: existing directory of the run.
      data_hash: hash of the training and validation images (`data.hash_images`).
      vae_started: when the run of the frozen VAE was started, if there is one.
    """
    content = {
        "config": unflatten_dict(flatten(config), sep="."),
        "image_shape": list(image_shape),
        **({DATA_HASH: data_hash} if data_hash else {}),
        **({VAE_STARTED: vae_started} if vae_started else {}),
        "provenance": dict(provenance),
    }
    files.write_json(workdir / CONFIG_FILE, content)


def update(
    config: Mapping[str, Any] | ConfigDict, workdir: pathlib.Path, entry: Mapping[str, Any]
) -> None:
    """Replaces the configuration in config.json, and adds an entry to its history."""
    content = _read(workdir)
    content["config"] = unflatten_dict(flatten(config), sep=".")
    content[HISTORY] = [*(content.get(HISTORY) or []), dict(entry)]
    files.write_json(workdir / CONFIG_FILE, content)


def _read(workdir: str | pathlib.Path) -> dict[str, Any]:
    """Returns the content of config.json, whose parts have the right types."""
    path = resolve_workdir(workdir, "workdir") / CONFIG_FILE
    if not path.exists():
        raise NotFoundError(
            f"{path} is missing, so {workdir} is not a training run: give the --workdir that "
            "train.py wrote."
        )
    text = files.read_text(path)
    try:
        content = files.parse_json(text)
    except Exception as error:  # also of a note on a number that says nothing, such as `[]`
        raise InputError(f"{path} is damaged ({error}): {REMEDY}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (it is {show(content)}, not a mapping): {REMEDY}")
    with _blamed_on(workdir):
        for key, rule in PARTS.items():
            rule.check(key, content.get(key))
    return content


def load_image_shape(workdir: str | pathlib.Path) -> ImageShape:
    """Returns the shape (H, W, C) of the images that the run in `workdir` was trained on.

    Raises:
      NotFoundError: no run was started in that directory.
      InputError: its config.json is damaged.
    """
    image_shape = tuple(_read(workdir)["image_shape"])
    with _blamed_on(workdir):
        IMAGE_SHAPE.check("image_shape", image_shape)
    return image_shape


def load_data_hash(workdir: str | pathlib.Path) -> str | None:
    """Returns the hash of the images that the run saw; None if an early version started it."""
    return _read(workdir).get(DATA_HASH)


def load_start(workdir: str | pathlib.Path) -> dict[str, Any]:
    """Returns the provenance of a run: when, and with what, it was started."""
    return _read(workdir).get("provenance") or {}


def load_vae_start(workdir: str | pathlib.Path) -> str | None:
    """Returns when the run of the frozen VAE was started, if that is known."""
    return _read(workdir).get(VAE_STARTED)


def load(workdir: str | pathlib.Path, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the locked configuration of the run in `workdir`.

    Args:
      workdir: directory of the run.
      changes: values that replace those of the run, by dotted key; None replaces nothing.

    Raises:
      NotFoundError: no run was started in that directory.
      InputError: its config.json is damaged, has a value that breaks its rule, or has other keys
        than this version of the program; or there is no such key to change, or not to such a value.
    """
    content = _read(workdir)
    flat = ADDED_KEYS | flatten(content["config"])
    unknown, missing = unknown_and_missing(flat.keys())
    if unknown or missing:
        commit = (content.get("provenance") or {}).get("git_commit")
        raise InputError(
            f"{pathlib.Path(workdir) / CONFIG_FILE} was written by another version of this program"
            + _list_keys(", with keys that this version does not know", unknown)
            + _list_keys(", without keys that this version needs", missing)
            + f". The run was started at commit {commit or '(not recorded)'}: check out that "
            "commit, or give another --workdir."
        )
    # JSON stores tuples as lists.
    flat = {key: tuple(v) if isinstance(v, list) else v for key, v in flat.items()}
    config = ConfigDict(unflatten_dict(flat, sep="."))
    with _blamed_on(workdir):
        check_each_value(config)
    return with_changes(config, {k: v for k, v in (changes or {}).items() if v is not None})


@contextlib.contextmanager
def _blamed_on(workdir: str | pathlib.Path) -> Iterator[None]:
    """Says in which file a value breaks its rule."""
    try:
        yield
    except InputError as error:
        path = pathlib.Path(workdir) / CONFIG_FILE
        raise InputError(f"{path} is damaged: {error} {REMEDY.capitalize()}") from error


def _list_keys(text: str, keys: Sequence[str]) -> str:
    return f"{text}: {', '.join(keys)}" if keys else ""
