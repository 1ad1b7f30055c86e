"""A normalising flow of affine couplings (RealNVP), each after a learned linear map (Glow).

Dinh et al. 2017, arXiv:1605.08803; Kingma & Dhariwal 2018, arXiv:1807.03039.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.blocks import ResidualBlock, group_norm
from vae_jax.distributions import standard_normal_log_prob, sum_event
from vae_jax.errors import InputError
from vae_jax.priors.base import Prior, VAEParts, register
from vae_jax.priors.diagonal_mixture import matmul
from vae_jax.priors.networks import NUM_BLOCKS, WIDTHS
from vae_jax.registry import integer

# One coupling stretches by at most exp(2). Without a limit, a single unlucky latent overflows the
# density or the inverse, and training does not recover from that.
MAX_LOG_SCALE = 2.0
MAX_NUM_BLOCKS = 512  # in all couplings; more take minutes to trace


def coupling_masks(latent_shape: tuple[int, ...], num_couplings: int) -> list[np.ndarray]:
    """Returns a mask for each coupling: 1 where it keeps the latent, 0 where it transforms it.

    The masks, float32 [*latent_shape], cycle through a checkerboard over the positions of a grid, a
    half of the last axis, and the complements of both. A split that would leave one side empty is
    not used.

    Raises:
      InputError: the latent has a single dimension.
    """
    if math.prod(latent_shape) == 1:
        raise InputError(
            f"model.latent_shape = {latent_shape} has a single dimension, but a flow transforms "
            "some dimensions given the others and needs 2 or more: use a larger latent or another "
            "prior.name, such as 'mixture'."
        )
    *positions, channels = np.indices(latent_shape)
    masks = []
    if math.prod(latent_shape[:-1]) > 1:
        masks.append(sum(positions) % 2 == 0)
    if latent_shape[-1] > 1:
        masks.append(channels < latent_shape[-1] // 2)
    masks += [~mask for mask in masks]
    cycle = itertools.islice(itertools.cycle(masks), num_couplings)
    return [mask.astype(np.float32) for mask in cycle]


class CouplingNetwork(nn.Module):
    """Maps kept latents [B, *latent_shape], 0 elsewhere, to (log_scale, shift) of the same shape.

    Both start at 0, so that the coupling starts as the identity. The network has convolutions for
    grids and dense layers for vectors.

    Attributes:
      width: channels or units of the hidden layers.
      num_blocks: residual blocks for a grid, hidden layers for a vector.
    """

    width: int
    num_blocks: int

    @nn.compact
    def __call__(self, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        num_outputs, zeros = 2 * kept.shape[-1], nn.initializers.zeros
        h = kept
        if kept.ndim == 2:
            for _ in range(self.num_blocks):
                h = nn.silu(nn.Dense(self.width)(h))
            outputs = nn.Dense(num_outputs, kernel_init=zeros, name="head")(h)
        else:
            h = nn.Conv(self.width, (3, 3), name="stem")(h)
            for _ in range(self.num_blocks):
                h = ResidualBlock()(h)
            h = nn.silu(group_norm(self.width, jnp.float32)(h))
            outputs = nn.Conv(num_outputs, (3, 3), kernel_init=zeros, name="head")(h)
        raw_log_scale, shift = jnp.split(outputs, 2, axis=-1)
        return MAX_LOG_SCALE * jnp.tanh(raw_log_scale / MAX_LOG_SCALE), shift


@register("flow", num_couplings=integer(1, 128), widths=WIDTHS, num_blocks=NUM_BLOCKS)
class Flow(Prior):
    """The exact density of z = from_noise(u) with u ~ N(0, I).

    Each of `num_couplings` steps multiplies the last axis by a full matrix (Glow's invertible 1x1
    convolution; for a vector, one matrix over all dimensions), then scales and shifts one part of
    the latent given the other. The flow starts as a rotation, so its density starts as N(0, I).

    Attributes:
      num_couplings: number of affine couplings, each with its own linear map.
      width: channels or units of the coupling networks' hidden layers.
      num_blocks: residual blocks (grid) or hidden layers (vector) of each coupling network.
    """

    num_couplings: int = 8
    width: int = 96
    num_blocks: int = 2
    standardised = True
    has_noise_map = True

    @classmethod
    def create(cls, vae: VAEParts, widths: tuple[int, ...] = (64,), **options: Any) -> Self:
        """As in `Prior`; only the first of the widths is used."""
        return cls(vae.latent_shape, width=widths[0], **options)

    @classmethod
    def check(cls, latent_shape: tuple[int, ...], options: Mapping[str, Any]) -> None:
        coupling_masks(latent_shape, num_couplings=1)
        num_couplings, num_blocks = options.get("num_couplings", 1), options.get("num_blocks", 1)
        if num_couplings * num_blocks > MAX_NUM_BLOCKS:
            raise InputError(
                f"prior.num_couplings = {num_couplings} times prior.num_blocks = {num_blocks} must "
                f"be at most {MAX_NUM_BLOCKS}: use less of one of the two."
            )

    def setup(self) -> None:
        self.masks = coupling_masks(self.latent_shape, self.num_couplings)
        num_channels = self.latent_shape[-1]
        self.matrices = [
            self.param(f"matrix_{i}", nn.initializers.orthogonal(), (num_channels, num_channels))
            for i in range(self.num_couplings)
        ]
        self.networks = [
            CouplingNetwork(self.width, self.num_blocks) for _ in range(self.num_couplings)
        ]

    def _log_scale_and_shift(self, step: int, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (log_scale, shift) of coupling number `step`, [B, *latent_shape].

        Both are 0 where the coupling keeps the latent. The kept part is the same before and after
        the coupling, so `z` may be the latent before or after it.
        """
        mask = self.masks[step]
        transformed = 1.0 - mask
        log_scale, shift = self.networks[step](jnp.multiply(mask, z))
        return jnp.multiply(transformed, log_scale), jnp.multiply(transformed, shift)

    def forward(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps latents to (base noise u [B, *latent_shape], log |det du/dz| [B]), float32."""
        num_positions = math.prod(self.latent_shape[:-1])
        log_det = jnp.zeros(z.shape[0])
        for step, matrix in enumerate(self.matrices):
            z = matmul(z, matrix)  # in full precision, or the inverse would not be exact
            log_scale, shift = self._log_scale_and_shift(step, z)
            z = z * jnp.exp(log_scale) + shift
            log_abs_det = jnp.linalg.slogdet(matrix).logabsdet  # of the map at one position
            log_det += num_positions * log_abs_det + sum_event(log_scale)
        return z, log_det

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        u, log_det = self.forward(z)
        return standard_normal_log_prob(u) + log_det

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        noise = jax.random.normal(key, (num_samples, *self.latent_shape))
        return self.from_noise(temperature * noise)

    def to_noise(self, z: jax.Array) -> jax.Array:
        return self.forward(z)[0]

    def from_noise(self, noise: jax.Array) -> jax.Array:
        z = noise
        for step in reversed(range(self.num_couplings)):
            log_scale, shift = self._log_scale_and_shift(step, z)
            z = (z - shift) * jnp.exp(-log_scale)
            z = matmul(z, jnp.linalg.inv(self.matrices[step]))
        return z
