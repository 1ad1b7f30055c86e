"""Networks of the diffusion prior: they predict v from a noisy latent and its noise level.

All start by predicting 0.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.blocks import AttentionBlock, depth_to_space, group_norm, space_to_depth
from vae_jax.registry import integer, integers

# Rules of options that networks share. Networks of more blocks take minutes to trace.
WIDTHS = integers(1, 16_384, range(1, 13), "1 to 12")
NUM_BLOCKS = integer(1, 32)
ATTENTION_RESOLUTIONS = integers(1, 4096, range(13), "up to 12")
NUM_FREQUENCIES = 32
FIRST_FREQUENCY, LAST_FREQUENCY = 0.1, 10.0  # radians per unit of gamma, whose range is about 20


class NoiseEmbedding(nn.Module):
    """Maps gamma [B] to [B, width]: its sines and cosines, then two dense layers."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, gamma: jax.Array) -> jax.Array:
        frequencies = jnp.geomspace(FIRST_FREQUENCY, LAST_FREQUENCY, NUM_FREQUENCIES)
        angles = gamma[:, None] * frequencies
        h = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        for _ in range(2):
            h = nn.silu(nn.Dense(self.width, dtype=self.dtype)(h))
        return h


class ModulatedBlock(nn.Module):
    """Residual block at a noise level: x + f(silu(norm(f(silu(norm(x)))) * (1 + scale) + shift)).

    A dense layer computes scale and shift from the embedding [B, E]. f is a 3x3 convolution for x
    [B, H, W, C] and a dense layer for x [B, C]. The block starts as the identity.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        width = x.shape[-1]
        layer_type: Callable[..., nn.Module] = nn.Dense
        if x.ndim != 2:
            layer_type = functools.partial(nn.Conv, kernel_size=(3, 3))
        layer = functools.partial(layer_type, width, dtype=self.dtype)
        h = group_norm(width, self.dtype)(layer()(nn.silu(group_norm(width, self.dtype)(x))))
        modulation = nn.Dense(2 * width, dtype=self.dtype, name="modulation")(embedding)
        modulation = modulation.reshape(-1, *[1] * (x.ndim - 2), 2 * width)
        scale, shift = jnp.split(modulation, 2, axis=-1)
        h = nn.silu(h * (1.0 + scale) + shift)
        return x + layer(kernel_init=nn.initializers.zeros)(h)


class MLP(nn.Module):
    """Network for vectors: (z [B, D], gamma [B]) -> v [B, D].

    Attributes:
      width: units of each layer.
      num_blocks: number of residual blocks.
      dtype: type of the activations; the output is float32.
    """

    width: int
    num_blocks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: jax.Array, gamma: jax.Array) -> jax.Array:
        embedding = NoiseEmbedding(self.width, self.dtype)(gamma)
        h = nn.Dense(self.width, dtype=self.dtype, name="stem")(z)
        for _ in range(self.num_blocks):
            h = ModulatedBlock(self.dtype)(h, embedding)
        h = nn.silu(group_norm(self.width, self.dtype)(h))
        return _head(nn.Dense, z.shape[-1])(h)


class UNet(nn.Module):
    """U-Net for grids: (z [B, h, w, c], gamma [B]) -> v [B, h, w, c].

    Source: Ronneberger et al. 2015, arXiv:1505.04597.

    Attributes:
      widths: channels of each level; each level halves the resolution of the one before.
      num_blocks: residual blocks of each level on the way down, and again on the way up.
      attention_resolutions: heights at which every block is followed by self-attention.
      dtype: type of the activations; the output is float32.
    """

    widths: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: jax.Array, gamma: jax.Array) -> jax.Array:
        embedding = NoiseEmbedding(4 * self.widths[0], self.dtype)(gamma)
        h = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype, name="stem")(z)
        # A learned position: latents are arranged like the image, which differs between positions.
        h += self.param("position", nn.initializers.zeros, h.shape[1:]).astype(h.dtype)
        skips = []
        for i, width in enumerate(self.widths):
            if i > 0:
                h = nn.Dense(width, dtype=self.dtype, name=f"downsample_{i}")(space_to_depth(h, 2))
            for _ in range(self.num_blocks):
                h = self._block(h, embedding)
                skips.append(h)
        h = self._block(h, embedding)
        for i in reversed(range(len(self.widths))):
            for _ in range(self.num_blocks):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(nn.Dense(self.widths[i], dtype=self.dtype)(h), embedding)
            if i > 0:
                upsample = nn.Dense(4 * self.widths[i - 1], dtype=self.dtype, name=f"upsample_{i}")
                h = depth_to_space(upsample(h), 2)
        h = nn.silu(group_norm(h.shape[-1], self.dtype)(h))
        return _head(functools.partial(nn.Conv, kernel_size=(3, 3)), z.shape[-1])(h)

    def _block(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """Applies a residual block, then self-attention if it is configured for this height."""
        h = ModulatedBlock(self.dtype)(h, embedding)
        if h.shape[1] in self.attention_resolutions:
            h = AttentionBlock(dtype=self.dtype)(h)
        return h


def _head(layer: Callable[..., nn.Module], num_outputs: int) -> nn.Module:
    """Creates the last layer, which starts at 0 and returns float32."""
    zeros = nn.initializers.zeros
    return layer(num_outputs, kernel_init=zeros, dtype=jnp.float32, name="head")
