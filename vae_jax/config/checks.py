"""Rules for values that can be checked from the configuration alone.

Rules about one component, such as the names of likelihoods, are checked where that component is
built; `experiment.validate` applies both kinds.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import priors
from vae_jax.config.workdir import flatten
from vae_jax.errors import InputError

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
    "prior.num_components",
    "prior.num_couplings",
    "prior.num_blocks",
    "prior.num_sampling_steps",
)


def check_values(config: ConfigDict) -> None:
    """Checks each value, and the values that must agree with each other.

    Raises:
      InputError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    flat = flatten(config)
    for key in POSITIVE_KEYS:
        if flat[key] < 1:
            raise InputError(f"{key} = {flat[key]} must be at least 1.")
    _check_batch(config)
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
    needs_whole_batch = {
        "kl.free_bits": config.kl.free_bits,
        "likelihood.gaussian_variance": config.likelihood.gaussian_variance == "batch_optimal"
        and config.likelihood.name == "gaussian",
    }
    for key, is_set in needs_whole_batch.items():
        if parts > 1 and is_set:
            raise InputError(
                f"train.accumulation_steps = {parts} adds up gradients of parts of a batch, but "
                f"{key} = {flatten(config)[key]!r} makes the loss depend on the whole batch: "
                "change one of the two."
            )


def _check_prior(config: ConfigDict) -> None:
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
        raise InputError(f"prior.temperature = {c.temperature} must not be negative.")
    if c.name != "standard_normal" and config.kl.free_bits:
        raise InputError(
            f"kl.free_bits = {config.kl.free_bits} needs a rate for each latent dimension, which "
            f"only prior.name = 'standard_normal' has, not {c.name!r}: set it to 0."
        )
    if config.vae_workdir and c.name == "standard_normal":
        raise InputError(
            f"prior.name = 'standard_normal' has no parameters to train on the frozen VAE of "
            f"vae_workdir = {config.vae_workdir!r}: use one of {', '.join(priors.PRIORS[1:])}."
        )
    if not config.vae_workdir and (c.name == "ex_post_mixture" or c.weighting != "bound"):
        key, value = ("name", c.name) if c.weighting == "bound" else ("weighting", c.weighting)
        raise InputError(
            f"prior.{key} = {value!r} is for a frozen VAE only, because it gives no bound to train "
            "the VAE on: set vae_workdir to the workdir of a trained VAE."
        )
