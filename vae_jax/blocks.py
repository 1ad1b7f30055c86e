"""Convolution blocks that encoder, decoder and priors share.

Sizes change without strided or transposed convolutions: space-to-depth and depth-to-space with a
1x1 convolution are exact inverses in shape, free of checkerboards, and several times faster to
differentiate on CPU.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

NUM_HEADS = 4  # of self-attention; widths must be multiples of it


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/factor, W/factor, C*factor^2]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C*factor^2] -> [B, H*factor, W*factor, C]; the inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def group_norm(num_channels: int, dtype: jnp.dtype) -> nn.GroupNorm:
    """GroupNorm (Wu & He 2018, arXiv:1803.08494): the most groups, up to 32, of 4 channels or more.

    No BatchNorm: its running statistics make an image's code depend on the other images of a batch.
    """
    fitting = [g for g in (2, 4, 8, 16, 32) if num_channels % g == 0 and num_channels // g >= 4]
    return nn.GroupNorm(num_groups=max(fitting, default=1), dtype=dtype)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); starts as the identity."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        conv = functools.partial(nn.Conv, width, (3, 3), dtype=self.dtype)
        h = conv()(nn.silu(group_norm(width, self.dtype)(x)))
        h = conv(kernel_init=nn.initializers.zeros)(nn.silu(group_norm(width, self.dtype)(h)))
        return x + h


class AttentionBlock(nn.Module):
    """Residual self-attention over the positions of a feature map [B, H, W, C]."""

    num_heads: int = NUM_HEADS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        tokens = group_norm(c, self.dtype)(x).reshape(b, h * w, c)
        attended = nn.MultiHeadDotProductAttention(
            num_heads=self.num_heads,
            dtype=self.dtype,
            force_fp32_for_softmax=True,
            out_kernel_init=nn.initializers.zeros,
        )(tokens)
        return x + attended.reshape(b, h, w, c)
