"""Network blocks that the encoder, the decoder and the priors share.

Resolutions change by space-to-depth and depth-to-space with a 1x1 convolution. Compared with
strided and transposed convolutions, the two are exact inverses in shape, produce no checkerboard
artefacts, and are several times faster to differentiate on a CPU.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

NUM_HEADS = 4  # heads of self-attention; its width must be a multiple of this


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """Moves squares of pixels to channels: [B, H, W, C] -> [B, H/factor, W/factor, C*factor^2]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Inverse of `space_to_depth`: [B, H, W, C*factor^2] -> [B, H*factor, W*factor, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


class GroupNorm(nn.Module):
    """Group normalisation of [B, ..., C], faster than flax's GroupNorm on XLA's CPU backend.

    The float32 statistics are first reduced over positions and then combined into one factor and
    one offset for each image and channel. The feature map itself, and its gradient, then need only
    sums and products per channel.
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
        """Returns means over the positions and the channels of each group, [B, 1, ..., C]."""
        positions = tuple(range(1, x.ndim - 1))
        means = x.mean(axis=positions).reshape(x.shape[0], self.num_groups, -1).mean(axis=-1)
        means = jnp.repeat(means, x.shape[-1] // self.num_groups, axis=-1)
        return jnp.expand_dims(means, positions)


def group_norm(num_channels: int, dtype: jnp.dtype) -> GroupNorm:
    """Creates a GroupNorm with as many groups as fit, up to 32, of at least 4 channels each.

    Group normalisation: Wu & He 2018, arXiv:1803.08494. BatchNorm is not used because its
    statistics make an image's code depend on the other images of a batch.
    """
    fitting = [g for g in (2, 4, 8, 16, 32) if num_channels % g == 0 and num_channels // g >= 4]
    return GroupNorm(num_groups=max(fitting, default=1), dtype=dtype)


class PositionWise(nn.Dense):
    """nn.Dense that treats the positions of a feature map [B, H, W, C] as the rows of one matrix.

    In the gradient of a product with a four-dimensional array, the CPU backend transposes one
    factor and repeats that for everything the factor is computed from.
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
