"""Checks that values agree with each other, after each has passed its rule in the schema.

The checks within one component, such as the options of a likelihood, are in its own room.
"""

import operator
from typing import Any

from ml_collections import ConfigDict

from vae_jax import likelihoods, optim, priors
from vae_jax.config.schema import AUTO, check_each_value
from vae_jax.errors import InputError
from vae_jax.optim import schedules

OTHER_KEYS = {"likelihood": ("name", "reduction"), "prior": ("name", "temperature")}


def options(config: ConfigDict, section: str) -> dict[str, Any]:
    """Returns the options of all kinds in the section 'likelihood' or 'prior'."""
    return {k: value for k, value in config[section].items() if k not in OTHER_KEYS[section]}


def check_values(config: ConfigDict) -> None:
    """Checks each value, and the values that must agree with each other.

    Raises:
      InputError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    check_each_value(config)
    likelihoods.check_options(config.likelihood.name, **options(config, "likelihood"))
    _check_batch(config)
    k, o = config.kl, config.optim
    schedules.check_kl_schedule(k.schedule, k.weight, k.warmup_steps, k.num_cycles, k.ramp_fraction)
    schedules.check_learning_rate_schedule(
        o.learning_rate,
        o.warmup_steps,
        o.decay,
        o.decay_steps or config.train.num_steps,
        o.final_fraction,
    )
    optim.check_optimizer(o.name, o.weight_decay, o.clip_norm)
    if o.weight_decay * o.learning_rate >= 1:
        raise InputError(
            f"optim.weight_decay = {o.weight_decay} times optim.learning_rate = {o.learning_rate} "
            "must be below 1, because each update takes this fraction off the weights: use less of "
            "one of the two."
        )
    _check_prior(config)


def _check_batch(config: ConfigDict) -> None:
    c = config.train
    size, parts = c.batch_size, c.accumulation_steps
    if size != AUTO and size % parts:
        raise InputError(
            f"train.accumulation_steps = {parts} must divide train.batch_size = {size}."
        )
    kind = likelihoods.kind(config.likelihood.name)
    key = kind.needs_whole_batch(options(config, "likelihood"))
    key = "kl.free_bits" if config.kl.free_bits else key
    if parts > 1 and key:
        value = operator.attrgetter(key)(config)
        raise InputError(
            f"train.accumulation_steps = {parts} adds up gradients of parts of a batch, but "
            f"{key} = {value!r} makes the loss depend on the whole batch: change one of the two."
        )


def _check_prior(config: ConfigDict) -> None:
    c, kinds = config.prior, {name: priors.kind(name) for name in priors.names()}
    prior_options = options(config, "prior")
    priors.check_options(c.name, config.model.latent_shape, **prior_options)
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
