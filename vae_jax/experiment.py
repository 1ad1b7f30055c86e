"""Builds the parts of an experiment from its configuration: data, model, likelihood, optimiser.

Those parts take plain arguments; this module reads them from the ConfigDict.
"""

import functools
import math

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from vae_jax import data, likelihoods, models, optim, priors
from vae_jax.config import DTYPES, check_values
from vae_jax.errors import InputError
from vae_jax.optim import schedules
from vae_jax.typing import ImageShape

MAX_STEPS_PER_CALL = 50


def validate(config: ConfigDict) -> None:
    """Checks everything in a configuration that can be checked without images.

    It checks the values, and builds the schedules, the optimiser and the likelihood that they
    describe.

    Raises:
      InputError: a value breaks a rule; the message names key, value, rule and remedy.
    """
    check_values(config)
    create_kl_schedule(config)
    create_optimizer(config)
    create_likelihood(config, num_channels=1)
    steps_per_call(config)


def create_likelihood(config: ConfigDict, num_channels: int) -> likelihoods.Likelihood:
    """Returns p(x | z) for images with `num_channels` channels."""
    options = {key: value for key, value in config.likelihood.items() if key != "reduction"}
    return likelihoods.create_likelihood(num_channels=num_channels, **options)


def distortion_weight(config: ConfigDict, image_shape: ImageShape) -> float:
    """Returns the weight of the distortion in the loss.

    It is 1 if the distortion is summed over pixels and channels, and 1 / (H W C) if it is averaged.
    """
    return 1.0 if config.likelihood.reduction == "sum" else 1.0 / math.prod(image_shape)


def create_model(config: ConfigDict, image_shape: ImageShape) -> models.VAE:
    """Returns the VAE for images of shape (H, W, C).

    Raises:
      InputError: the layers do not fit each other or the images.
    """
    c = config.model
    height, width, num_channels = image_shape
    image_shape = (height, width, num_channels)  # a tuple even if a list was passed
    likelihood = create_likelihood(config, num_channels)
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
        make_prior=functools.partial(_create_prior, config, image_shape),
    )
    models.check_shapes(model)
    return model


def _create_prior(config: ConfigDict, image_shape: ImageShape, encoder: nn.Module) -> priors.Prior:
    options = {key: value for key, value in config.prior.items() if key != "temperature"}
    return priors.create_prior(
        latent_shape=config.model.latent_shape,
        image_shape=image_shape,
        encoder=encoder,
        dtype=DTYPES[config.model.dtype],
        **options,
    )


def create_kl_schedule(config: ConfigDict) -> schedules.Schedule:
    """Returns the function from a step to its KL weight."""
    c = config.kl
    return schedules.make_kl_schedule(
        c.schedule, c.weight, c.warmup_steps, c.num_cycles, c.ramp_fraction
    )


def create_learning_rate(config: ConfigDict) -> schedules.Schedule:
    """Returns the function from a step to its learning rate."""
    c = config.optim
    return schedules.make_learning_rate_schedule(
        c.learning_rate, c.warmup_steps, c.decay, config.train.num_steps, c.final_fraction
    )


def create_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the whole optimiser chain: skipping, clipping, and the named optimiser."""
    c = config.optim
    return optim.create_optimizer(
        c.name, create_learning_rate(config), c.b1, c.b2, c.weight_decay, c.clip_norm
    )


def load_split(config: ConfigDict, split: str) -> data.Split:
    """Opens a split of the configured dataset, which is prepared on first use.

    Args:
      config: run configuration.
      split: 'train', 'validation' or 'test'.
    """
    c = config.data
    known = data.sources.REGISTRY.keys()
    options = {key: value for key, value in c.items() if f"data.{key}" in known}
    return data.load_split(c.name, split, c.dir, c.validation_size, **options)


def binarize_key(config: ConfigDict) -> jax.Array:
    """Returns the random key that binarises evaluation images, used with likelihood.binarize."""
    return jax.random.fold_in(jax.random.key(config.eval.seed), 1)


def steps_per_call(config: ConfigDict) -> int:
    """Returns the number of training steps in one jitted call.

    It divides every interval of the training loop. For train.steps_per_call = 0 it is 1 on a CPU,
    and elsewhere the largest such number up to MAX_STEPS_PER_CALL.

    Raises:
      InputError: train.steps_per_call does not divide num_steps or one of the intervals.
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
        raise InputError(
            f"train.steps_per_call = {c.steps_per_call} must divide {intervals} (0: automatic)."
        )
    return c.steps_per_call
