"""The schema: the rule of each key, for the command line, configs/, Python and config.json alike.

A rule says which type a value has and which range. The ranges are generous. They exclude values
that make no sense, numbers that float32 turns into 0, 1 or infinity, and counts that need more time
or memory than any machine has. The rules of a component's options are registered with its kinds.
"""

import functools
import operator
from collections.abc import Mapping, Set
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vae_jax import likelihoods, priors
from vae_jax.config import defaults
from vae_jax.config.keys import leaves
from vae_jax.data import sources
from vae_jax.errors import InputError
from vae_jax.optim import OPTIMIZERS
from vae_jax.optim.schedules import KL_SCHEDULES, LEARNING_RATE_DECAYS
from vae_jax.priors.networks import ATTENTION_RESOLUTIONS, WIDTHS
from vae_jax.registry import Option, Registry, flag, integer, integers, number, one_of, text

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REDUCTIONS = ("sum", "mean")
AUTO = "auto"
MAX_TEMPERATURE = 100  # of a prior
SECTIONS: Mapping[str, Registry[Any]] = {
    "data": sources.REGISTRY,
    "likelihood": likelihoods.REGISTRY,
    "prior": priors.REGISTRY,
}

SEED = integer(0, 2**32 - 1)  # NumPy and JAX take the same seeds up to here
STEPS = integer(1, 10**9)  # the number of the step is an int32
STEPS_OR_NONE = integer(0, 10**9)
DECAY = number(0, 0.999999)  # float32 would round the next ones to 1, and 1 - 1 divides
BATCH_SIZE = integer(1, 10**6)
_THREE = integers(1, 4096, [3], "3")
IMAGE_SHAPE = Option(
    f"{_THREE.describe()}, the last of them 1 or 3, the channels",
    lambda value: _THREE.holds(value) and value[2] in (1, 3),
)

SCHEMA: Mapping[str, Option] = {
    "seed": SEED,
    "vae_workdir": text(may_be_empty=True),
    "data.name": text(),
    "data.dir": text(),
    "data.validation_size": integer(1, 10**9),
    "data.flip": flag(),
    "data.resident": flag(),
    "model.latent_shape": integers(1, 2**16, (1, 3), "1 or 3", max_product=2**18),
    "model.widths": WIDTHS,
    "model.num_blocks": integers(0, 64, range(1, 13), "1 to 12"),
    "model.patch_size": integer(1, 512),
    "model.attention_resolutions": ATTENTION_RESOLUTIONS,
    "model.dtype": one_of(DTYPES),
    "model.remat": flag(),
    "prior.name": one_of(priors.REGISTRY),
    "prior.temperature": number(0, MAX_TEMPERATURE),
    "likelihood.name": one_of(likelihoods.REGISTRY),
    "likelihood.reduction": one_of(REDUCTIONS),
    "kl.weight": number(0, 1e6),
    "kl.schedule": one_of(KL_SCHEDULES),
    "kl.warmup_steps": STEPS_OR_NONE,
    "kl.num_cycles": integer(1, 10_000),
    "kl.ramp_fraction": number(1e-6, 1),
    "kl.free_bits": number(0, 10_000),
    "optim.name": one_of(OPTIMIZERS),
    "optim.learning_rate": number(1e-12, 1e20),
    "optim.warmup_steps": STEPS_OR_NONE,
    "optim.decay": one_of(LEARNING_RATE_DECAYS),
    "optim.final_fraction": number(0, 1),
    "optim.b1": DECAY,
    "optim.b2": DECAY,
    "optim.weight_decay": number(0, 1000),
    "optim.clip_norm": number(0, 1e12, "0: no clipping"),
    "optim.decay_steps": STEPS_OR_NONE,
    "optim.ema_decay": DECAY,
    "optim.ema_warmup": flag(),
    "optim.max_skipped_in_a_row": STEPS,
    "train.batch_size": Option(
        f"{BATCH_SIZE.describe()}, or {AUTO!r}",
        lambda value: (isinstance(value, str) and value == AUTO) or BATCH_SIZE.holds(value),
    ),
    "train.accumulation_steps": integer(1, 256),
    "train.num_steps": STEPS,
    "train.steps_per_call": integer(0, 10_000, "0: automatic"),
    "train.log_every_steps": STEPS,
    "train.eval_every_steps": STEPS,
    "train.patience": integer(0, 10**9, "0: no early stop"),
    "train.profile": flag(),
    "train.diagnose": flag(),
    "train.checkpoint_every_steps": STEPS,
    "train.keep_checkpoints": integer(1, 10**6),
    "eval.batch_size": BATCH_SIZE,
    "eval.seed": SEED,
    "eval.use_ema": flag(),
    "eval.num_iw_samples": integer(1, 10**5),
    "eval.num_iw_images": integer(0, 10**9, "0: all"),
}


def rules(config: ConfigDict | None = None) -> dict[str, Option]:
    """Returns the rule of each key.

    Args:
      config: its choice of kinds decides which rule counts if several kinds have an option.
    """
    found = dict(SCHEMA)
    for section, registry in SECTIONS.items():
        name = operator.attrgetter(f"{section}.name")(config) if config else ""
        options = registry.rules(name if isinstance(name, str) else "")
        found |= {f"{section}.{option}": rule for option, rule in options.items()}
    return found


@functools.cache
def _default_keys() -> frozenset[str]:
    return frozenset(key for key, _ in leaves(defaults.get_config()))


def unknown_and_missing(keys: Set[str]) -> tuple[list[str], list[str]]:
    """Returns which of these keys no configuration has, and which keys it has besides them.

    A kind that a user's script registers may have options without a default.
    """
    needed = _default_keys()
    return sorted(keys - needed - rules().keys()), sorted(needed - keys)


def check_each_value(config: ConfigDict) -> None:
    """Checks that all keys are there and no others, and the type and the range of each value.

    Raises:
      InputError: a key is unknown or missing, or a value breaks its rule.
    """
    if not isinstance(config, ConfigDict):
        raise InputError(f"the configuration is of type {type(config).__name__}, not a ConfigDict.")
    found = dict(leaves(config))
    unknown, missing = unknown_and_missing(found.keys())
    if unknown or missing:
        raise InputError(
            "the configuration "
            + " and ".join(
                f"{verb} {', '.join(keys)}"
                for verb, keys in (("has the unknown key", unknown), ("lacks", missing))
                if keys
            )
            + ": start from vae_jax.config.defaults.get_config() and change only values."
        )
    rule_of = rules(config)
    for key, value in found.items():
        rule_of[key].check(key, value)
