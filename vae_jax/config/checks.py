"""Rules for values that can be checked from the configuration alone.

The rules about one component, such as the options of a likelihood, are in its own room.
"""

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import likelihoods, optim, priors
from vae_jax.config.workdir import flatten
from vae_jax.errors import InputError
from vae_jax.optim import schedules

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
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
)


OTHER_KEYS = {"likelihood": ("name", "reduction"), "prior": ("name", "temperature")}


def options(config: ConfigDict, section: str) -> dict[str, Any]:
    """Returns the options of all kinds in the section 'likelihood' or 'prior'."""
    return {k: value for k, value in config[section].items() if k not in OTHER_KEYS[section]}


def check_values(config: ConfigDict) -> None:
    """Checks each value, and the values that must agree with each other.

    Raises:
      InputError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    flat = flatten(config)
    for key in POSITIVE_KEYS:
        if flat[key] < 1:
            raise InputError(f"{key} = {flat[key]} must be at least 1.")
    likelihoods.check_options(config.likelihood.name, **options(config, "likelihood"))
    _check_batch(config)
    k, o = config.kl, config.optim
    schedules.check_kl_schedule(k.schedule, k.weight, k.warmup_steps, k.num_cycles, k.ramp_fraction)
    schedules.check_learning_rate_schedule(
        o.learning_rate, o.warmup_steps, o.decay, config.train.num_steps, o.final_fraction
    )
    optim.check_optimizer(o.name, o.weight_decay, o.clip_norm)
    if not 0 <= config.optim.ema_decay < 1:
        raise InputError(f"optim.ema_decay = {config.optim.ema_decay} must lie in [0, 1).")
    if config.eval.num_iw_images < 0:
        raise InputError(
            f"eval.num_iw_images = {config.eval.num_iw_images} must not be negative (0: all)."
        )
    if config.train.patience < 0:
        raise InputError(
            f"train.patience = {config.train.patience} must not be negative (0: no early stop)."
        )
    if config.kl.free_bits < 0:
        raise InputError(f"kl.free_bits = {config.kl.free_bits} must not be negative.")
    if config.model.dtype not in DTYPES:
        raise InputError(
            f"model.dtype = {config.model.dtype!r} is unknown: use one of {', '.join(DTYPES)}."
        )
    if config.likelihood.reduction not in REDUCTIONS:
        raise InputError(
            f"likelihood.reduction = {config.likelihood.reduction!r} is unknown: use one of "
            f"{', '.join(REDUCTIONS)}."
        )
    if not config.model.widths or any(width < 1 for width in config.model.widths):
        raise InputError(f"model.widths = {config.model.widths} must be positive channel counts.")
    _check_prior(config)


def _check_batch(config: ConfigDict) -> None:
    c = config.train
    size, parts = c.batch_size, c.accumulation_steps
    if size != AUTO and (type(size) is not int or size < 1):
        raise InputError(
            f"train.batch_size = {size!r} must be an integer, at least 1, or {AUTO!r}."
        )
    if size != AUTO and size % parts:
        raise InputError(
            f"train.accumulation_steps = {parts} must divide train.batch_size = {size}."
        )
    kind = likelihoods.kind(config.likelihood.name)
    key = kind.needs_whole_batch(options(config, "likelihood"))
    key = "kl.free_bits" if config.kl.free_bits else key
    if parts > 1 and key:
        raise InputError(
            f"train.accumulation_steps = {parts} adds up gradients of parts of a batch, but "
            f"{key} = {flatten(config)[key]!r} makes the loss depend on the whole batch: "
            "change one of the two."
        )


def _check_prior(config: ConfigDict) -> None:
    c, kinds = config.prior, {name: priors.kind(name) for name in priors.names()}
    prior_options = options(config, "prior")
    priors.check_options(c.name, config.model.latent_shape, **prior_options)
    if c.temperature < 0:
        raise InputError(f"prior.temperature = {c.temperature} must not be negative.")
    if not kinds[c.name].splits_by_dimension and config.kl.free_bits:
        having = " or ".join(repr(name) for name in kinds if kinds[name].splits_by_dimension)
        raise InputError(
            f"kl.free_bits = {config.kl.free_bits} needs a rate for each latent dimension, which "
            f"only prior.name = {having} has, not {c.name!r}: set it to 0."
        )
    if config.vae_workdir and not kinds[c.name].has_parameters:
        trained = ", ".join(name for name in kinds if kinds[name].has_parameters)
        raise InputError(
            f"prior.name = {c.name!r} has no parameters to train on the frozen VAE of "
            f"vae_workdir = {config.vae_workdir!r}: use one of {trained}."
        )
    boundless = [] if kinds[c.name].gives_bound({}) else ["name"]
    for key, value in prior_options.items():  # of any prior, like the rules of the options
        if any(k.gives_bound({}) and not k.gives_bound({key: value}) for k in kinds.values()):
            boundless.insert(0, key)
    if boundless and not config.vae_workdir:
        raise InputError(
            f"prior.{boundless[0]} = {c[boundless[0]]!r} is for a frozen VAE only, because it "
            "gives no bound to train the VAE on: set vae_workdir to the workdir of a trained VAE."
        )
