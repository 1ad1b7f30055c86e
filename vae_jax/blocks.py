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


class GroupNorm(nn.Module):
    """flax's GroupNorm of [B, ..., C] in an order of operations that XLA's CPU backend does faster.

    Statistics (float32) are summed over positions first and become one factor and one offset for
    each image and channel before they meet the feature map, so that what goes over it, in the
    gradient as well, is plain sums and products by channel.
    """

    num_groups: int
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        x = x.astype(jnp.float32)
        mean, mean_of_squares = self._group_means(x), self._group_means(x**2)
        variance = jnp.maximum(mean_of_squares - mean**2, 0.0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (x * factor + (bias - mean * factor)).astype(self.dtype)

    def _group_means(self, x: jax.Array) -> jax.Array:
        """Means over positions and the channels of a group, [B, 1, ..., C]."""
        positions = tuple(range(1, x.ndim - 1))
        means = x.mean(axis=positions).reshape(x.shape[0], self.num_groups, -1).mean(axis=-1)
        means = jnp.repeat(means, x.shape[-1] // self.num_groups, axis=-1)
        return jnp.expand_dims(means, positions)


def group_norm(num_channels: int, dtype: jnp.dtype) -> GroupNorm:
    """GroupNorm (Wu & He 2018, arXiv:1803.08494): the most groups, up to 32, of 4 channels or more.

    No BatchNorm: its running statistics make an image's code depend on the other images of a batch.
    """
    fitting = [g for g in (2, 4, 8, 16, 32) if num_channels % g == 0 and num_channels // g >= 4]
    return GroupNorm(num_groups=max(fitting, default=1), dtype=dtype)


class PositionWise(nn.Dense):
    """nn.Dense on the positions of a feature map [B, H, W, C] as one matrix.

    On the CPU backend the gradient of a product with a four-dimensional array transposes one factor
    together with all that it is computed from.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.features)


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
