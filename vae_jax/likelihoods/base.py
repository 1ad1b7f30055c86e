"""What all likelihoods have in common, and how one is created from its name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from vae_jax.errors import InputError
from vae_jax.registry import Registry
from vae_jax.typing import PyTree


def soft_floor(value: jax.Array, floor: float) -> jax.Array:
    """Returns `floor` + softplus(`value` - `floor`), which is always above `floor`.

    Without a floor, constant regions (the black background of Fashion-MNIST) would drive a scale to
    zero and its density to infinity. This floor is approached smoothly, so that the gradient never
    vanishes.
    """
    return floor + jax.nn.softplus(value - floor)


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A density or mass function p(x | z) of images with values in [0, 1].

    It has no parameters of its own: the decoder's outputs, float32 [B, H, W, num_outputs], are its
    natural parameters. A subclass sets those of the attributes and properties that differ. Options
    that it is registered with are fields of it.

    Attributes:
      num_channels: channels of an image.
      binarize: whether images are made binary before the model sees them.
      grey_is_probability: whether the grey value of a pixel is the probability that it is 1.
      is_discrete: whether `log_prob` is a mass function over the 256 levels of 8-bit images, and so
        comparable in bits per dimension. Otherwise it is a density on the unit interval, or a
        cross-entropy.
      min_log_std: lower bound on the logarithm of `std`.
    """

    num_channels: int
    binarize = False
    grey_is_probability = False
    is_discrete = False
    min_log_std = -math.inf

    @classmethod
    def needs_whole_batch(cls, options: Mapping[str, Any]) -> str:
        """Returns the configuration key that makes the loss depend on the whole batch, or ''."""
        del options
        return ""

    @property
    def num_outputs(self) -> int:
        """Number of the decoder's outputs for each pixel."""
        raise NotImplementedError

    @property
    def has_log_std(self) -> bool:
        """Whether the last output is one learned scalar, the log standard deviation of pixels."""
        return False

    @property
    def optimal_scale(self) -> bool:
        """Whether training sets that scalar to the optimum of each batch.

        The loss then depends on the whole batch, not only on the mean over its images.
        """
        return False

    @property
    def has_free_variance(self) -> bool:
        """Whether there is a variance that may differ from the optimal one."""
        return False

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns log p(x | z) of images [B, H, W, C], nats per image, [B]."""
        raise NotImplementedError

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws images, [B, H, W, C] in [0, 1]."""
        raise NotImplementedError

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Returns the mean image, [B, H, W, C] in [0, 1]."""
        raise NotImplementedError

    def std(self, params: PyTree) -> float | None:
        """Returns the standard deviation of all pixels, or None if there is no such number.

        Args:
          params: parameters of the VAE; those of the decoder are `params['decoder']`.
        """
        del params
        return None

    def batch_optimal_log_std(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the optimal last output for a batch, a scalar; only with `optimal_scale`."""
        raise NotImplementedError


REGISTRY: Registry[type[Likelihood]] = Registry("likelihood")
register, names, kind = REGISTRY.register, REGISTRY.names, REGISTRY.__getitem__


def create_likelihood(name: str, num_channels: int, **options: Any) -> Likelihood:
    """Returns the likelihood `name` for images of `num_channels` channels.

    Args:
      name: one of `names()`.
      num_channels: channels of an image.
      **options: options of any likelihood; those of others are checked, but have no effect.

    Raises:
      InputError: the name is unknown, an option breaks its rule, or the images are to be binary but
        the likelihood is one of grey images.
    """
    check_options(name, **options)
    return kind(name)(num_channels, **REGISTRY.options_of(name, options))


def check_options(name: str, **options: Any) -> None:
    """Raises an InputError as `create_likelihood` does."""
    REGISTRY.check({"name": name, **options})
    binary = REGISTRY.names_with("binarize")
    if options.get("binarize") and name not in binary:
        raise InputError(
            f"likelihood.binarize = True does not work with likelihood.name = {name!r}: only "
            f"{', '.join(map(repr, binary))} is a likelihood of binary images."
        )
