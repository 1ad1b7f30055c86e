"""Builds an experiment from the values of its configuration."""

import functools
import math
import types

from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import likelihoods, models, optim, priors, tasks
from vae_jax.config import DTYPES, check_values
from vae_jax.data import Dataset, sources
from vae_jax.experiment.parts import EvaluationPlan, Experiment, TrainingPlan
from vae_jax.optim import schedules
from vae_jax.typing import ImageShape


def validate(config: ConfigDict) -> None:
    """Checks everything in a configuration that can be checked without images.

    Raises:
      InputError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    check_values(config)
    _create_training_plan(config).steps_in_call()


def build(config: ConfigDict, image_shape: ImageShape | None = None) -> Experiment:
    """Builds the experiment that a configuration describes.

    Args:
      config: run configuration.
      image_shape: (H, W, C); None: that of the dataset, which is prepared on first use, after
        `validate`.

    Raises:
      InputError: a value breaks a rule, or the dataset cannot be read.
    """
    validate(config)
    o, k, dataset = config.optim, config.kl, create_dataset(config)
    height, width, num_channels = image_shape or dataset.split("train").image_shape
    likelihood = likelihoods.create_likelihood(
        config.likelihood.name, num_channels, **configuration.options(config, "likelihood")
    )
    model = _create_model(config, (height, width, num_channels), likelihood)
    learning_rate = schedules.make_learning_rate_schedule(
        o.learning_rate, o.warmup_steps, o.decay, config.train.num_steps, o.final_fraction
    )
    return Experiment(
        config=types.MappingProxyType(configuration.flatten(config)),
        dataset=dataset,
        likelihood=likelihood,
        model=model,
        task=_create_task(config, model, likelihood),
        tx=optim.create_optimizer(o.name, learning_rate, o.b1, o.b2, o.weight_decay, o.clip_norm),
        kl_schedule=schedules.make_kl_schedule(
            k.schedule, k.weight, k.warmup_steps, k.num_cycles, k.ramp_fraction
        ),
        learning_rate=learning_rate,
        training=_create_training_plan(config),
        evaluation=EvaluationPlan(**config.eval.to_dict(), temperature=config.prior.temperature),
    )


def create_dataset(config: ConfigDict) -> Dataset:
    """Returns the dataset that a configuration describes; nothing is opened yet."""
    c, known = config.data, sources.REGISTRY.keys()
    options = {key: value for key, value in c.items() if f"data.{key}" in known}
    return Dataset(c.name, c.dir, c.validation_size, options)


def _create_training_plan(config: ConfigDict) -> TrainingPlan:
    section = config.train.to_dict()
    if section["batch_size"] == configuration.AUTO:
        section["batch_size"] = 0
    return TrainingPlan(
        **section,
        seed=config.seed,
        kl_warmup_steps=config.kl.warmup_steps,
        ema_decay=config.optim.ema_decay,
        ema_warmup=config.optim.ema_warmup,
        max_skipped_in_a_row=config.optim.max_skipped_in_a_row,
        resident=config.data.resident,
    )


def _create_model(
    config: ConfigDict, image_shape: ImageShape, likelihood: likelihoods.Likelihood
) -> models.VAE:
    c = config.model
    model = models.VAE(
        image_shape=image_shape,
        num_outputs=likelihood.num_outputs,
        has_log_std=likelihood.has_log_std,
        latent_shape=c.latent_shape,
        widths=c.widths,
        num_blocks=c.num_blocks,
        patch_size=c.patch_size,
        attention_resolutions=c.attention_resolutions,
        dtype=DTYPES[c.dtype],
        remat=c.remat,
        make_prior=functools.partial(
            priors.create_prior,
            config.prior.name,
            c.latent_shape,
            image_shape,
            dtype=DTYPES[c.dtype],
            **configuration.options(config, "prior"),
        ),
    )
    models.check_shapes(model)
    return model


def _create_task(
    config: ConfigDict, model: models.VAE, likelihood: likelihoods.Likelihood
) -> tasks.Task:
    start_prior = functools.partial(priors.start_from_data, config.prior.name, seed=config.seed)
    if config.vae_workdir:
        return tasks.PriorTask(
            model,
            likelihood,
            config.data.flip,
            vae_workdir=config.vae_workdir,
            start_prior=start_prior,
            seed=config.seed,
        )
    # The mean over pixels is a common mistake, kept for comparison.
    weight = 1.0 if config.likelihood.reduction == "sum" else 1.0 / math.prod(model.image_shape)
    return tasks.VAETask(
        model,
        likelihood,
        config.data.flip,
        free_bits=config.kl.free_bits,
        distortion_weight=weight,
        start_prior=start_prior if priors.kind(config.prior.name).has_parameters else None,
        seed=config.seed,
    )
