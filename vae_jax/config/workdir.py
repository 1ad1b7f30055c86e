"""The configuration in the workdir of a run: config.json.

`save` writes it and `load` reads it, also for runs of earlier versions. `complete` takes sections
from the run of a frozen VAE. `check_unchanged` and `check_same_data` refuse to resume a run with
other settings or other images.
"""

import copy
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vae_jax import likelihoods, priors
from vae_jax.config import defaults
from vae_jax.data import sources
from vae_jax.errors import InputError, NotFoundError
from vae_jax.runtime.names import resolve_workdir
from vae_jax.typing import ImageShape

LOGGER = logging.getLogger(__name__)
CONFIG_FILE = "config.json"
OWN_DATA_KEYS = ("dir", "resident")  # these depend on the machine, not on the run of the VAE
DATA_HASH = "data_sha256"  # key in config.json: the hash of the images
# Keys that runs of earlier versions lack, with the values that reproduce how those runs behaved.
ADDED_KEYS = {
    "likelihood.gaussian_std": 1.0,
    "likelihood.reduction": "sum",
    "optim.ema_warmup": True,
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


def flatten(tree: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Joins nested keys by dots: {'a': {'b': 1}} -> {'a.b': 1}; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked copy of a configuration with other values.

    Args:
      config: configuration, which stays as it is.
      changes: values by dotted key.
    """
    config = copy.deepcopy(config).lock()
    config.update_from_flattened_dict(dict(changes))
    return config


def save(
    config: Mapping[str, Any] | ConfigDict,
    image_shape: ImageShape,
    provenance: Mapping[str, object],
    workdir: pathlib.Path,
    data_hash: str | None = None,
) -> None:
    """Writes config.json, which holds everything needed to rebuild the model without the data.

    Args:
      config: run configuration, nested or by dotted key.
      image_shape: (H, W, C) of the dataset.
      provenance: versions, git commit and hardware that produced the run.
      workdir: existing directory of the run.
      data_hash: hash of the training and validation images (`data.hash_images`).
    """
    content = {
        "config": unflatten_dict(flatten(config), sep="."),
        "image_shape": list(image_shape),
        **({DATA_HASH: data_hash} if data_hash else {}),
        "provenance": dict(provenance),
    }
    temporary = workdir / f"{CONFIG_FILE}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(workdir / CONFIG_FILE)


def _read(workdir: str | pathlib.Path) -> dict[str, Any]:
    path = resolve_workdir(workdir, "workdir") / CONFIG_FILE
    if not path.exists():
        raise NotFoundError(
            f"{path} is missing, so {workdir} is not a training run: give the --workdir that "
            "train.py wrote."
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): put back a copy, or give another --workdir."
        ) from error
    return content


def load_image_shape(workdir: str | pathlib.Path) -> ImageShape:
    """Returns the shape (H, W, C) of the images that the run in `workdir` was trained on."""
    return tuple(_read(workdir)["image_shape"])


def load(workdir: str | pathlib.Path, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the locked configuration of the run in `workdir`.

    Args:
      workdir: directory of the run.
      changes: values that replace those of the run, by dotted key; None replaces nothing.

    Raises:
      NotFoundError: no run was started in that directory.
      InputError: its config.json is damaged, or has other keys than this version of the program.
    """
    content = _read(workdir)
    flat = ADDED_KEYS | flatten(content["config"])
    known = flatten(defaults.get_config()).keys()
    # A kind registered by a user's script may have options without a default.
    options = sources.REGISTRY.keys() | likelihoods.REGISTRY.keys() | priors.REGISTRY.keys()
    unknown, missing = flat.keys() - known - options, known - flat.keys()
    if unknown or missing:
        commit = content.get("provenance", {}).get("git_commit")
        raise InputError(
            f"{pathlib.Path(workdir) / CONFIG_FILE} was written by another version of this program"
            + _list_keys(", with keys that this version does not know", unknown)
            + _list_keys(", without keys that this version needs", missing)
            + f". The run was started at commit {commit or '(not recorded)'}: check out that "
            "commit, or give another --workdir."
        )
    changed = {key: value for key, value in (changes or {}).items() if value is not None}
    # JSON stores tuples as lists.
    flat = {key: tuple(v) if isinstance(v, list) else v for key, v in flat.items()}
    return with_changes(ConfigDict(unflatten_dict(flat, sep=".")), changed)


def _list_keys(text: str, keys: Iterable[str]) -> str:
    return f"{text}: {', '.join(sorted(keys))}" if keys else ""


def complete(config: ConfigDict) -> ConfigDict:
    """Returns `config` with the sections data, model and likelihood of the frozen VAE.

    Without a frozen VAE it returns `config`. The KL weight does not enter the training of a prior,
    so there is no warm-up. A prior that is fitted completely before the first step needs one step
    only.

    Raises:
      NotFoundError: no run was started in config.vae_workdir.
    """
    if not config.vae_workdir:
        return config
    vae_config = load(config.vae_workdir).to_dict()
    for key in OWN_DATA_KEYS:
        vae_config["data"][key] = config.data[key]
    sections = {section: vae_config[section] for section in ("data", "model", "likelihood")}
    complete = ConfigDict({**config.to_dict(), **sections})
    complete.kl.warmup_steps = 0
    if not priors.kind(config.prior.name).trains_in_steps:
        complete.optim.warmup_steps = 0
        complete.train.steps_per_call = 0
        for key in ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
            complete.train[key] = 1
    return complete.lock()


def check_unchanged(
    config: Mapping[str, Any] | ConfigDict, image_shape: ImageShape, workdir: pathlib.Path
) -> None:
    """Checks that a run in `workdir` can be resumed with `config` and images of this shape.

    Three keys may differ: `data.dir`, which says where the images are stored but not what they
    are, and `train.diagnose` and `train.profile`, which do not change the training.

    Raises:
      InputError: the configuration or the shape differs; the message lists the keys that do.
    """
    old, new = flatten(load(workdir)), flatten(config)
    for key in ("data.dir", "train.diagnose", "train.profile"):
        new[key] = old[key]
    old["image_shape"], new["image_shape"] = load_image_shape(workdir), tuple(image_shape)
    differing = [
        f"  {key}: {old.get(key, 'absent')} in the workdir, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(differing)
            + "\nGive another --workdir, or the configuration that this run was started with."
        )


def check_same_data(config: Mapping[str, Any], data_hash: str, workdir: str | pathlib.Path) -> None:
    """Checks that the run in `workdir` was trained on the images with this hash.

    Runs of earlier versions did not record a hash; they pass, with a message in the log.

    Raises:
      InputError: the run was trained on other images.
    """
    old = _read(workdir).get(DATA_HASH)
    if old is None:
        LOGGER.info(
            "%s was written by an earlier version, without a hash of the images: cannot check that "
            "the run saw the same images as now.",
            pathlib.Path(workdir) / CONFIG_FILE,
        )
    elif old != data_hash:
        raise InputError(
            f"data.name = {config['data.name']!r} in data.dir = {config['data.dir']!r}: these are "
            f"not the training and validation images that the run in {workdir} saw (SHA-256 "
            f"{data_hash[:12]} now, {old[:12]} in its {CONFIG_FILE}), and they must be the same. "
            "Put the old images back, or give another --workdir."
        )
