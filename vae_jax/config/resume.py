"""What makes a run the run that it is, and what may change when it is resumed.

A run is its model, objective, optimiser, batches and images. Where its files are, how it uses
memory, what it logs, how it is evaluated, and how long it trains may change: the state after a step
does not depend on these.
"""

import contextlib
import datetime
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vae_jax import data, priors
from vae_jax.config.keys import flatten
from vae_jax.config.workdir import (
    CONFIG_FILE,
    load,
    load_data_hash,
    load_image_shape,
    load_start,
    load_vae_start,
)
from vae_jax.errors import InputError
from vae_jax.runtime.names import resolve_workdir
from vae_jax.typing import ImageShape

LOGGER = logging.getLogger(__name__)
OWN_DATA_KEYS = ("dir", "resident")  # these depend on the machine, not on the run of the VAE
PLACES = ("data.name", "data.dir", "vae_workdir")
# Options that decide which images a named dataset has, which their hash covers as well.
IMAGES = ("data.crop", "data.image_size")
FREE_KEYS = (
    *PLACES,
    *IMAGES,
    "data.resident",
    "model.remat",
    "optim.max_skipped_in_a_row",
    "prior.sampler",
    "prior.num_sampling_steps",
    "prior.temperature",
    "train.steps_per_call",
    "train.log_every_steps",
    "train.eval_every_steps",
    "train.patience",
    "train.profile",
    "train.diagnose",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
)
FREE_SECTIONS = ("eval.",)
UNUSED_KEYS = ("data.dir", "train.diagnose", "train.profile")  # nothing that is trained uses them
LENGTH = ("train.num_steps", "optim.decay_steps")


def complete(config: ConfigDict, workdir: pathlib.Path | None = None) -> ConfigDict:
    """Returns `config` with the sections data, model and likelihood of the frozen VAE.

    Without a frozen VAE it returns `config`. The KL weight does not enter the training of a prior,
    so there is no warm-up. A prior that is fitted completely before the first step needs one step
    only.

    Args:
      config: configuration of a run.
      workdir: its directory. If the run was started there, and the VAE's run is gone, the sections
        are those with which it was started: its checkpoints hold the VAE.

    Raises:
      NotFoundError: no run was started in config.vae_workdir.
    """
    if not config.vae_workdir:
        return config
    vae_config = load(_find_vae(config, workdir)).to_dict()
    for key in OWN_DATA_KEYS:
        vae_config["data"][key] = config.data[key]
    name = vae_config["data"]["name"]
    if data.is_path(name) and not data.dataset_directory(name).exists():
        with contextlib.suppress(InputError):  # it has moved, but not to data.dir
            vae_config["data"]["name"], _ = data.locate(name, config.data.dir)
    sections = {section: vae_config[section] for section in ("data", "model", "likelihood")}
    complete = ConfigDict({**config.to_dict(), **sections})
    complete.kl.warmup_steps = 0
    if not priors.kind(config.prior.name).trains_in_steps:
        complete.optim.warmup_steps = 0
        complete.train.steps_per_call = 0
        for key in ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
            complete.train[key] = 1
    return complete.lock()


def _find_vae(config: ConfigDict, workdir: pathlib.Path | None) -> pathlib.Path:
    """Returns the directory whose config.json has the sections of the frozen VAE."""
    vae_workdir = resolve_workdir(config.vae_workdir, "vae_workdir")
    if workdir is None or (vae_workdir / CONFIG_FILE).exists():
        return vae_workdir
    started = (workdir / CONFIG_FILE).exists() and load(workdir).vae_workdir
    return workdir if started else vae_workdir


def changed_keys(
    config: Mapping[str, Any] | ConfigDict, image_shape: ImageShape, workdir: pathlib.Path
) -> dict[str, list[Any]]:
    """Checks that a run in `workdir` can be resumed with `config` and images of this shape.

    Returns:
      The keys that differ although the run is the same, each with its value in the workdir and now.

    Raises:
      InputError: it is another run; the message lists the keys that differ.
    """
    old, new = flatten(load(workdir)), flatten(config)
    changed = _differences(old, new, image_shape, workdir)
    free = {*FREE_KEYS, *LENGTH}
    if bool(old["vae_workdir"]) != bool(new["vae_workdir"]):  # a prior, or a whole VAE
        free -= {"vae_workdir"}
    if not load_data_hash(workdir):
        free -= {"data.name", *IMAGES}
    _refuse(
        {k: v for k, v in changed.items() if k not in free and not k.startswith(FREE_SECTIONS)},
        workdir,
    )
    _check_length(old, new, workdir)
    _check_same_vae(new["vae_workdir"], workdir)
    return changed


def check_unchanged(
    config: Mapping[str, Any] | ConfigDict, image_shape: ImageShape, workdir: pathlib.Path
) -> None:
    """Checks that a finished run in `workdir` is the one that `config` describes.

    The directory of the datasets may differ, and what the training does not depend on at all.

    Raises:
      InputError: the configuration or the shape differs; the message lists the keys that do.
    """
    changed = _differences(flatten(load(workdir)), flatten(config), image_shape, workdir)
    _refuse({k: v for k, v in changed.items() if k not in UNUSED_KEYS}, workdir)


def _differences(
    old: dict[str, Any], new: dict[str, Any], image_shape: ImageShape, workdir: pathlib.Path
) -> dict[str, list[Any]]:
    """Returns the keys that differ, each with its two values."""
    old = {**old, "image_shape": tuple(load_image_shape(workdir))}
    new = {**new, "image_shape": tuple(image_shape)}
    return {
        key: [old.get(key, "absent"), new.get(key, "absent")]
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _refuse(differing: Mapping[str, list[Any]], workdir: pathlib.Path) -> None:
    if differing:
        lines = [f"  {key}: {a} in the workdir, {b} now" for key, (a, b) in differing.items()]
        raise InputError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nGive another --workdir, or the configuration that this run was started with."
        )


def _check_length(old: Mapping[str, Any], new: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Checks a change of the number of steps, which the learning rate may depend on."""
    before, now = old["train.num_steps"], new["train.num_steps"]
    if now < before:
        raise InputError(
            f"train.num_steps = {now} is less than the {before} steps of the run in {workdir}: a "
            "run can be made longer, but not shorter. Stop it with Ctrl-C, or give another "
            "--workdir."
        )
    ends = [c["optim.decay_steps"] or c["train.num_steps"] for c in (old, new)]
    is_asked = new["optim.decay_steps"] and new["optim.decay_steps"] != old["optim.decay_steps"]
    if new["optim.decay"] == "constant" or ends[0] == ends[1] or is_asked:
        return
    raise InputError(
        f"train.num_steps = {now} instead of {before}: the learning rate of the run in {workdir} "
        f"falls as a cosine until step {ends[0]}, so say what it does from there. "
        f"--config.optim.decay_steps={ends[0]} keeps that cosine, and trains the other steps at "
        f"its last value, optim.final_fraction = {new['optim.final_fraction']:g} of the peak. "
        f"--config.optim.decay_steps={now} goes on with the cosine that ends at step {now}, so the "
        "learning rate jumps up where the run resumes."
    )


def _check_same_vae(vae_workdir: str, workdir: pathlib.Path) -> None:
    """Checks that the frozen VAE is still the one whose parameters the checkpoints hold."""
    started = load_vae_start(workdir)
    if not started:
        return
    if not (resolve_workdir(vae_workdir, "vae_workdir") / CONFIG_FILE).exists():
        return
    now = load_start(vae_workdir).get("started")
    if now != started:
        raise InputError(
            f"vae_workdir = {vae_workdir!r} holds a run that was started at {now}, but the VAE of "
            f"the run in {workdir} was started at {started}: give the directory of that VAE, or "
            "another --workdir."
        )


def history_entry(step: int, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry for the history of config.json: when which keys changed, and from what."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"step": step, "time": now, "changed": dict(changed)}


def check_same_data(config: Mapping[str, Any], data_hash: str, workdir: str | pathlib.Path) -> None:
    """Checks that the run in `workdir` was trained on the images with this hash.

    Runs of earlier versions did not record a hash; they pass, with a message in the log.

    Raises:
      InputError: the run was trained on other images.
    """
    old = load_data_hash(workdir)
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
