"""An experiment: every part of a run, built once from its configuration.

Code that gets an `Experiment`, or a part of it, does not read a ConfigDict.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import data, likelihoods, models, optim, priors, tasks
from vae_jax.checkpoints.state import TrainState, create_train_state
from vae_jax.config import DTYPES, check_values
from vae_jax.data import Dataset, sources
from vae_jax.errors import InputError
from vae_jax.optim import schedules
from vae_jax.typing import ImageShape

MAX_STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How a run is trained. Attributes without a comment are keys of the section train.

    Attributes:
      seed: seed of the run.
      kl_warmup_end: step from which the KL weight stays at its final value.
      ema_decay, ema_warmup: decay of the average of the parameters, and whether it starts smaller.
      max_skipped_in_a_row: number of skipped updates in a row that ends the run.
      resident: whether all training images stay in device memory.
      batch_size: images per step over all devices; 0: to be measured.
    """

    seed: int
    kl_warmup_end: int
    ema_decay: float
    ema_warmup: bool
    max_skipped_in_a_row: int
    resident: bool
    batch_size: int
    accumulation_steps: int
    num_steps: int
    steps_per_call: int
    log_every_steps: int
    eval_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    patience: int
    diagnose: bool
    profile: bool

    def steps_in_call(self) -> int:
        """Returns the number of training steps in one jitted call.

        It divides every interval of the training loop. For steps_per_call = 0 it is 1 on a CPU, and
        elsewhere the largest such number up to MAX_STEPS_PER_CALL.

        Raises:
          InputError: steps_per_call does not divide num_steps or one of the intervals.
        """
        names = ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
        intervals = {f"train.{name}": getattr(self, name) for name in names}
        common = math.gcd(*intervals.values())
        if self.steps_per_call == 0:
            if jax.default_backend() == "cpu":
                return 1
            return max(n for n in range(1, MAX_STEPS_PER_CALL + 1) if common % n == 0)
        if self.steps_per_call < 0 or common % self.steps_per_call:
            raise InputError(
                f"train.steps_per_call = {self.steps_per_call} must divide {intervals} "
                "(0: automatic)."
            )
        return self.steps_per_call


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """How a model is evaluated: the section eval of the configuration, and prior.temperature."""

    batch_size: int
    seed: int
    use_ema: bool
    num_iw_samples: int
    num_iw_images: int
    temperature: float


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that a configuration describes, for images of one shape.

    Attributes:
      config: the configuration by dotted key, read-only; for messages, reports and config.json.
      dataset: the images.
      likelihood: p(x | z).
      model: the VAE with its prior.
      task: what is trained.
      tx: optimiser: skipping, clipping, and the named optimiser.
      kl_schedule: function from a step to its KL weight.
      learning_rate: function from a step to its learning rate.
      training: how the run is trained.
      evaluation: how the model is evaluated.
    """

    config: Mapping[str, Any]
    dataset: Dataset
    likelihood: likelihoods.Likelihood
    model: models.VAE
    task: tasks.Task
    tx: optax.GradientTransformation
    kl_schedule: schedules.Schedule
    learning_rate: schedules.Schedule
    training: TrainingPlan
    evaluation: EvaluationPlan

    @property
    def image_shape(self) -> ImageShape:
        """Shape (H, W, C) of an image."""
        return self.model.image_shape

    @property
    def prior(self) -> priors.Prior:
        """p(z), without parameters: for its properties."""
        return self.model.bind({}).prior

    def create_state(self, key: jax.Array) -> TrainState:
        """Returns a freshly initialised state; to be jitted."""
        return create_train_state(self.model, self.tx, key, self.task.trained)

    def with_images(
        self, data_dir: str | None, sha256: str | None, allow_other_images: bool
    ) -> "Experiment":
        """Returns the experiment with the images that a run was trained on.

        Args:
          data_dir: where they are now, if they have moved: their directory, or the one above.
          sha256: their hash; None: it is not known.
          allow_other_images: whether images with another hash may be opened.

        Raises:
          InputError: `data_dir` does not have the dataset.
        """
        dataset = dataclasses.replace(
            self.dataset, sha256=sha256, allow_other_images=allow_other_images
        )
        if data_dir is not None:
            name, place = data.locate(dataset.name, data_dir, **dataset.options)
            dataset = dataclasses.replace(dataset, name=name, data_dir=place or dataset.data_dir)
        config = dict(self.config)
        config |= {"data.name": dataset.name, "data.dir": dataset.data_dir}
        return dataclasses.replace(self, config=types.MappingProxyType(config), dataset=dataset)

    def with_batch(self, batch_size: int, steps_per_call: int) -> "Experiment":
        """Returns the experiment with numbers in place of train.batch_size = 'auto'."""
        config = dict(self.config)
        config |= {"train.batch_size": batch_size, "train.steps_per_call": steps_per_call}
        plan = dataclasses.replace(
            self.training, batch_size=batch_size, steps_per_call=steps_per_call
        )
        return dataclasses.replace(self, config=types.MappingProxyType(config), training=plan)


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
    plan = _create_training_plan(config)
    prior_options = priors.REGISTRY.options_of(config.prior.name, config.prior)
    models.check_memory(
        model,
        [f"prior.{key}" for key, value in prior_options.items() if not isinstance(value, str)],
        {"train.batch_size": plan.batch_size, "eval.batch_size": config.eval.batch_size},
    )
    learning_rate = schedules.make_learning_rate_schedule(
        o.learning_rate,
        o.warmup_steps,
        o.decay,
        o.decay_steps or config.train.num_steps,
        o.final_fraction,
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
        training=plan,
        evaluation=EvaluationPlan(**config.eval.to_dict(), temperature=config.prior.temperature),
    )


def create_dataset(config: ConfigDict) -> Dataset:
    """Returns the dataset that a configuration describes; nothing is opened yet."""
    c, known = config.data, sources.REGISTRY.keys()
    options = {key: value for key, value in c.items() if f"data.{key}" in known}
    return Dataset(c.name, c.dir, c.validation_size, options)


def _create_training_plan(config: ConfigDict) -> TrainingPlan:
    section, k = config.train.to_dict(), config.kl
    if section["batch_size"] == configuration.AUTO:
        section["batch_size"] = 0
    return TrainingPlan(
        **section,
        seed=config.seed,
        kl_warmup_end=schedules.kl_warmup_end(k.schedule, k.weight, k.warmup_steps),
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
            priors.create_prior, config.prior.name, **configuration.options(config, "prior")
        ),
    )
    models.check_shapes(model)
    return model


def _create_task(
    config: ConfigDict, model: models.VAE, likelihood: likelihoods.Likelihood
) -> tasks.Task:
    start_prior = None
    if priors.kind(config.prior.name).has_parameters:
        start_prior = functools.partial(priors.start_from_data, config.prior.name, seed=config.seed)
    shared = (model, likelihood, config.data.flip, config.seed, start_prior)
    if config.vae_workdir:
        return tasks.PriorTask(*shared, vae_workdir=config.vae_workdir)
    # The mean over pixels is a common mistake, kept for comparison.
    weight = 1.0 if config.likelihood.reduction == "sum" else 1.0 / math.prod(model.image_shape)
    return tasks.VAETask(*shared, free_bits=config.kl.free_bits, distortion_weight=weight)
