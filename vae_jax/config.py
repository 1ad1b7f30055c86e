"""Configurations: their files, their checks, the workdir's copy, and the typed parts they make."""

import functools
import importlib.util
import json
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vae_jax import data, likelihoods, models, optim, priors, steps
from vae_jax.optim import schedules

LOGGER = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
DEFAULTS_FILE = pathlib.Path(__file__).resolve().parent.parent / "configs" / "default.py"
DATA_HASH = "data_sha256"  # of the images, in config.json
MAX_STEPS_PER_CALL = 50
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# JSON has no tuples.
TUPLE_KEYS = (
    "model.latent_shape",
    "model.widths",
    "model.num_blocks",
    "model.attention_resolutions",
    "prior.widths",
    "prior.attention_resolutions",
)
# Keys that runs of earlier versions lack, with values that leave them as they were.
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
REDUCTIONS = ("sum", "mean")
AUTO = "auto"
POSITIVE_KEYS = (
    "train.accumulation_steps",
    "train.num_steps",
    "train.log_every_steps",
    "train.eval_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "eval.batch_size",
    "eval.num_iw_samples",
    "optim.max_skipped_in_a_row",
    "model.patch_size",
    "prior.num_components",
    "prior.num_couplings",
    "prior.num_blocks",
    "prior.num_sampling_steps",
)


def load_module(path: str | pathlib.Path, functions: tuple[str, ...], example: str) -> ModuleType:
    """The Python file that a command was given as `--config`.

    Args:
      path: of the file.
      functions: what the command calls of it.
      example: a file of that kind, for the message.

    Raises:
      ValueError: there is no such file, or it lacks a function.
    """
    path = pathlib.Path(path)
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"--config={path}: no such Python file; one is {example}.")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    missing = [name for name in functions if not hasattr(module, name)]
    if missing:
        raise ValueError(f"--config={path} lacks {' and '.join(missing)}: see {example}.")
    return module


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """{'a': {'b': 1}} -> {'a.b': 1}; tuples become lists, as in JSON."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def validate(config: ConfigDict) -> None:
    """Checks all that needs no images; a ValueError names key, value, rule and remedy."""
    flat = flatten(config)
    for key in POSITIVE_KEYS:
        if flat[key] < 1:
            raise ValueError(f"{key} = {flat[key]} must be at least 1.")
    _validate_batch(config)
    if not 0 <= config.optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay = {config.optim.ema_decay} must lie in [0, 1).")
    if config.eval.num_iw_images < 0:
        raise ValueError(
            f"eval.num_iw_images = {config.eval.num_iw_images} must not be negative (0: all)."
        )
    if config.train.patience < 0:
        raise ValueError(
            f"train.patience = {config.train.patience} must not be negative (0: no early stop)."
        )
    if config.kl.free_bits < 0:
        raise ValueError(f"kl.free_bits = {config.kl.free_bits} must not be negative.")
    if config.model.dtype not in DTYPES:
        raise ValueError(
            f"model.dtype = {config.model.dtype!r} is unknown: use one of {', '.join(DTYPES)}."
        )
    if config.likelihood.reduction not in REDUCTIONS:
        raise ValueError(
            f"likelihood.reduction = {config.likelihood.reduction!r} is unknown: use one of "
            f"{', '.join(REDUCTIONS)}."
        )
    if not config.model.widths or any(width < 1 for width in config.model.widths):
        raise ValueError(f"model.widths = {config.model.widths} must be positive channel counts.")
    _validate_prior(config)
    create_kl_schedule(config)
    create_optimizer(config)
    create_likelihood(config, num_channels=1)
    steps_per_call(config)


def _validate_batch(config: ConfigDict) -> None:
    c = config.train
    size, parts = c.batch_size, c.accumulation_steps
    if size != AUTO and (type(size) is not int or size < 1):
        raise ValueError(
            f"train.batch_size = {size!r} must be an integer, at least 1, or {AUTO!r}."
        )
    if size != AUTO and size % parts:
        raise ValueError(
            f"train.accumulation_steps = {parts} must divide train.batch_size = {size}."
        )
    not_a_mean = {
        "kl.free_bits": config.kl.free_bits,
        "likelihood.gaussian_variance": config.likelihood.gaussian_variance == "batch_optimal"
        and config.likelihood.name == "gaussian",
    }
    for key, is_set in not_a_mean.items():
        if parts > 1 and is_set:
            raise ValueError(
                f"train.accumulation_steps = {parts} sums the gradients of parts of a batch, and "
                f"{key} = {flatten(config)[key]!r} makes the loss a function of the whole batch: "
                "change one of the two."
            )


def _validate_prior(config: ConfigDict) -> None:
    c = config.prior
    priors.check_options(
        c.name,
        config.model.latent_shape,
        c.widths,
        c.weighting,
        c.sampler,
        c.attention_resolutions,
    )
    if c.temperature < 0:
        raise ValueError(f"prior.temperature = {c.temperature} must not be negative.")
    if c.name != "standard_normal" and config.kl.free_bits:
        raise ValueError(
            f"kl.free_bits = {config.kl.free_bits} is of the rate of each dimension, which only "
            f"prior.name = 'standard_normal' has, not {c.name!r}: set it to 0."
        )
    if config.vae_workdir and c.name == "standard_normal":
        raise ValueError(
            f"prior.name = 'standard_normal' has nothing to train on the frozen VAE of vae_workdir "
            f"= {config.vae_workdir!r}: use one of {', '.join(priors.PRIORS[1:])}."
        )
    if not config.vae_workdir and (c.name == "ex_post_mixture" or c.weighting != "bound"):
        key, value = ("name", c.name) if c.weighting == "bound" else ("weighting", c.weighting)
        raise ValueError(
            f"prior.{key} = {value!r} is for a frozen VAE only, being no part of a bound that the "
            "VAE could be trained on: set vae_workdir to the workdir of a trained one."
        )


def save(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    provenance: Mapping,
    workdir: pathlib.Path,
    data_hash: str | None = None,
) -> None:
    """Writes config.json: all that is needed to build the model again without the data.

    Args:
      config: of the run.
      image_shape: (H, W, C) of the dataset.
      provenance: what made the run: versions, commit, hardware.
      workdir: an existing directory.
      data_hash: of the training and validation images, `data.hash_images`.
    """
    content = {
        "config": config.to_dict(),
        "image_shape": list(image_shape),
        **({DATA_HASH: data_hash} if data_hash else {}),
        "provenance": dict(provenance),
    }
    temporary = workdir / f"{CONFIG_FILE}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(workdir / CONFIG_FILE)


def _read(workdir: str | pathlib.Path) -> dict:
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so {workdir} is no training run: give the --workdir that train.py "
            "wrote."
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): put back a copy, or give another --workdir."
        ) from error
    return content


def load_image_shape(workdir: str | pathlib.Path) -> tuple[int, int, int]:
    """(H, W, C) of the images that the run in `workdir` was trained on."""
    return tuple(_read(workdir)["image_shape"])


def load(workdir: str | pathlib.Path) -> ConfigDict:
    """The locked configuration of a workdir.

    Raises:
      FileNotFoundError: no run was started in that directory.
      ValueError: its config.json is damaged, or has other keys than this version of the program.
    """
    of_file = _read(workdir)
    content = of_file["config"]
    for key, value in ADDED_KEYS.items():
        *section, name = key.split(".")
        (content.setdefault(section[0], {}) if section else content).setdefault(name, value)
    keys, known = flatten(content).keys(), flatten(_defaults()).keys()
    if keys != known:
        commit = of_file.get("provenance", {}).get("git_commit")
        raise ValueError(
            f"{pathlib.Path(workdir) / CONFIG_FILE} is of another version of this program"
            + _listed(", with keys that this one does not know", keys - known)
            + _listed(", without keys that this one needs", known - keys)
            + f". The run was started at commit {commit or '(not recorded)'}: go there, or give "
            "another --workdir."
        )
    for key in TUPLE_KEYS:
        section, name = key.split(".")
        content[section][name] = tuple(content[section][name])
    return ConfigDict(content).lock()


@functools.cache
def _defaults() -> ConfigDict:
    """configs/default.py, which holds every key, wherever Python was started."""
    return load_module(DEFAULTS_FILE, ("get_config",), str(DEFAULTS_FILE)).get_config()


def _listed(text: str, keys: Iterable[str]) -> str:
    return f"{text}: {', '.join(sorted(keys))}" if keys else ""


def with_batch_size_of(workdir: str | pathlib.Path, config: ConfigDict) -> ConfigDict:
    """`config` with the numbers that a run in `workdir` found for train.batch_size = 'auto'."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for key in ("batch_size", "steps_per_call"):
            config.train[key] = load(workdir).train[key]
    return config


def check_unchanged(
    config: ConfigDict, image_shape: tuple[int, int, int], workdir: pathlib.Path
) -> None:
    """Raises a ValueError that lists the keys in which `config` differs from the workdir's.

    `data.dir` may differ: it says where the images lie, not what they are. Their shape counts.
    `train.diagnose` and `train.profile` may: they change nothing in the run.
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
        raise ValueError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(differing)
            + "\nGive another --workdir, or the configuration that this one was started with."
        )


def check_same_data(config: ConfigDict, data_hash: str, workdir: str | pathlib.Path) -> None:
    """Raises a ValueError unless the run in `workdir` saw the images of this hash, if it tells."""
    old = _read(workdir).get(DATA_HASH)
    if old is None:
        LOGGER.info(
            "%s has no hash of the images, as in earlier versions: whether they are the same as "
            "now is not checked.",
            pathlib.Path(workdir) / CONFIG_FILE,
        )
    elif old != data_hash:
        raise ValueError(
            f"data.name = {config.data.name!r} in data.dir = {config.data.dir!r}: these are not "
            f"the training and validation images that the run in {workdir} saw (SHA-256 "
            f"{data_hash[:12]} now, {old[:12]} in its {CONFIG_FILE}), and they must be the same. "
            "Put those back, or give another --workdir."
        )


def create_likelihood(config: ConfigDict, num_channels: int) -> likelihoods.Likelihood:
    """p(x | z) for images of `num_channels` channels."""
    options = {key: value for key, value in config.likelihood.items() if key != "reduction"}
    return likelihoods.create_likelihood(num_channels=num_channels, **options)


def distortion_weight(config: ConfigDict, image_shape: tuple[int, int, int]) -> float:
    """Weight of the distortion in the loss: 1, unless it is averaged over pixels and channels."""
    return 1.0 if config.likelihood.reduction == "sum" else 1.0 / math.prod(image_shape)


def create_model(config: ConfigDict, image_shape: tuple[int, int, int]) -> models.VAE:
    """The VAE for images of shape (H, W, C)."""
    c = config.model
    likelihood = create_likelihood(config, image_shape[-1])
    model = models.VAE(
        image_shape=tuple(image_shape),
        num_outputs=likelihood.num_outputs,
        has_log_std=likelihood.has_log_std,
        latent_shape=c.latent_shape,
        widths=c.widths,
        num_blocks=c.num_blocks,
        patch_size=c.patch_size,
        attention_resolutions=c.attention_resolutions,
        dtype=DTYPES[c.dtype],
        remat=c.remat,
        make_prior=functools.partial(_create_prior, config, tuple(image_shape)),
    )
    models.check_shapes(model)
    return model


def _create_prior(
    config: ConfigDict, image_shape: tuple[int, int, int], encoder: nn.Module
) -> priors.Prior:
    options = {key: value for key, value in config.prior.items() if key != "temperature"}
    return priors.create_prior(
        latent_shape=config.model.latent_shape,
        image_shape=image_shape,
        encoder=encoder,
        dtype=DTYPES[config.model.dtype],
        **options,
    )


def create_kl_schedule(config: ConfigDict) -> schedules.Schedule:
    """step -> KL weight."""
    c = config.kl
    return schedules.make_kl_schedule(
        c.schedule, c.weight, c.warmup_steps, c.num_cycles, c.ramp_fraction
    )


def create_learning_rate(config: ConfigDict) -> schedules.Schedule:
    """step -> learning rate."""
    c = config.optim
    return schedules.make_learning_rate_schedule(
        c.learning_rate, c.warmup_steps, c.decay, config.train.num_steps, c.final_fraction
    )


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The whole optimiser chain."""
    c = config.optim
    return optim.create_optimizer(
        c.name, create_learning_rate(config), c.b1, c.b2, c.weight_decay, c.clip_norm
    )


def create_train_step(config: ConfigDict, image_shape: tuple[int, int, int]) -> Callable:
    """One update, as `steps.make_train_step` returns it."""
    c = config
    return steps.make_train_step(
        create_model(c, image_shape),
        create_likelihood(c, image_shape[-1]),
        create_optimizer(c),
        create_kl_schedule(c),
        create_learning_rate(c),
        free_bits=c.kl.free_bits,
        distortion_weight=distortion_weight(c, image_shape),
        ema_decay=c.optim.ema_decay,
        ema_warmup=c.optim.ema_warmup,
        flip=c.data.flip,
        frozen_vae=bool(c.vae_workdir),
        accumulation_steps=c.train.accumulation_steps,
    )


def load_split(config: ConfigDict, split: str) -> data.Split:
    """'train', 'validation' or 'test' of the configured dataset, prepared on first use."""
    c = config.data
    return data.load_split(c.name, split, c.dir, c.validation_size, c.crop, c.image_size)


def binarize_key(config: ConfigDict) -> jax.Array:
    """The key that makes the evaluation's images binary where the likelihood asks for it."""
    return jax.random.fold_in(jax.random.key(config.eval.seed), 1)


def steps_per_call(config: ConfigDict) -> int:
    """Steps of one jitted call, a divisor of every interval of the loop.

    Raises:
      ValueError: a given number does not divide num_steps or one of the intervals.
    """
    c = config.train
    intervals = {
        "train.num_steps": c.num_steps,
        "train.log_every_steps": c.log_every_steps,
        "train.eval_every_steps": c.eval_every_steps,
        "train.checkpoint_every_steps": c.checkpoint_every_steps,
    }
    common = functools.reduce(math.gcd, intervals.values())
    if c.steps_per_call == 0:
        if jax.default_backend() == "cpu":
            return 1
        return max(n for n in range(1, MAX_STEPS_PER_CALL + 1) if common % n == 0)
    if c.steps_per_call < 0 or common % c.steps_per_call:
        raise ValueError(
            f"train.steps_per_call = {c.steps_per_call} must divide {intervals} (0: automatic)."
        )
    return c.steps_per_call
