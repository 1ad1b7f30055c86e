"""The parts of an experiment, and its plans for training and evaluation."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import jax
import optax

from vae_jax.checkpoints.state import TrainState, create_train_state
from vae_jax.data import Dataset
from vae_jax.errors import InputError
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.optim.schedules import Schedule
from vae_jax.priors import Prior
from vae_jax.tasks import Task
from vae_jax.typing import ImageShape

MAX_STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How a run is trained. Attributes without a comment are keys of the section train.

    Attributes:
      seed: seed of the run.
      kl_warmup_steps: steps until the KL weight stays at its final value.
      ema_decay, ema_warmup: decay of the average of the parameters, and whether it starts smaller.
      max_skipped_in_a_row: number of skipped updates in a row that ends the run.
      resident: whether all training images stay in device memory.
      batch_size: images per step over all devices; 0: to be measured.
    """

    seed: int
    kl_warmup_steps: int
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
    likelihood: Likelihood
    model: VAE
    task: Task
    tx: optax.GradientTransformation
    kl_schedule: Schedule
    learning_rate: Schedule
    training: TrainingPlan
    evaluation: EvaluationPlan

    @property
    def image_shape(self) -> ImageShape:
        """Shape (H, W, C) of an image."""
        return self.model.image_shape

    @property
    def prior(self) -> Prior:
        """p(z), without parameters: for its properties."""
        return self.model.bind({}).prior

    def create_state(self, key: jax.Array) -> TrainState:
        """Returns a freshly initialised state; to be jitted."""
        return create_train_state(self.model, self.tx, key, self.task.trained)

    def with_batch(self, batch_size: int, steps_per_call: int) -> "Experiment":
        """Returns the experiment with numbers in place of train.batch_size = 'auto'."""
        config = dict(self.config)
        config |= {"train.batch_size": batch_size, "train.steps_per_call": steps_per_call}
        plan = dataclasses.replace(
            self.training, batch_size=batch_size, steps_per_call=steps_per_call
        )
        return dataclasses.replace(self, config=types.MappingProxyType(config), training=plan)
