"""Convolutional encoder, decoder and VAE: the architecture only, without losses.

Stage i works at resolution image / (patch_size * 2^i) with `widths[i]` channels. A dense layer
computes a latent of shape (D,) from the flattened last stage. A 1x1 convolution computes a latent
of shape (h, w, c), where (h, w) is the resolution of the last stage.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.blocks import (
    NUM_HEADS,
    AttentionBlock,
    PositionWise,
    ResidualBlock,
    depth_to_space,
    group_norm,
    space_to_depth,
)
from vae_jax.distributions import DiagonalGaussian
from vae_jax.errors import InputError
from vae_jax.priors import Prior, StandardNormal, VAEParts
from vae_jax.typing import ImageShape, PyTree

# The standard deviation is softplus(raw) + MIN_STD. It grows linearly in the raw output where
# exp(raw) would overflow, and keeps the log-density of the posterior finite.
MIN_STD = 1e-4


class Stage(nn.Module):
    """Residual blocks at one resolution, then self-attention if configured for its height.

    Attributes:
      num_blocks: number of residual blocks.
      attention_resolutions: heights of feature maps that are followed by self-attention.
      dtype: type of the activations.
      remat: whether the backward pass recomputes the activations of each block instead of keeping
        them.
    """

    num_blocks: int
    attention_resolutions: tuple[int, ...]
    dtype: jnp.dtype
    remat: bool = False

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        def create(block: type[nn.Module], number: int) -> nn.Module:
            name = f"{block.__name__}_{number}"  # nn.remat would choose another name
            return (nn.remat(block) if self.remat else block)(dtype=self.dtype, name=name)

        for i in range(self.num_blocks):
            h = create(ResidualBlock, i)(h)
        if h.shape[1] in self.attention_resolutions:
            h = create(AttentionBlock, 0)(h)
        return h


class _Network(nn.Module):
    """What the encoder and the decoder have in common. Their attributes are those of `VAE`."""

    widths: tuple[int, ...]
    num_blocks: tuple[int, ...]
    patch_size: int
    attention_resolutions: tuple[int, ...]
    dtype: jnp.dtype
    remat: bool

    def _stage(self, i: int, h: jax.Array) -> jax.Array:
        """Applies stage number i, 0 at the highest resolution."""
        options = (self.num_blocks[i], self.attention_resolutions, self.dtype, self.remat)
        return Stage(*options, name=f"stage_{i}")(h)


class Encoder(_Network):
    """Maps images [B, H, W, C] in [0, 1] to q(z | x), float32 [B, *latent_shape]."""

    latent_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> DiagonalGaussian:
        h = space_to_depth((2.0 * x - 1.0).astype(self.dtype), self.patch_size)
        h = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype, name="stem")(h)
        for i, width in enumerate(self.widths):
            if i > 0:
                h = PositionWise(width, dtype=self.dtype, name=f"downsample_{i}")(
                    space_to_depth(h, 2)
                )
            h = self._stage(i, h)
        h = nn.silu(group_norm(h.shape[-1], self.dtype)(h))
        if len(self.latent_shape) == 1:
            h = h.reshape(h.shape[0], -1)
        statistics = nn.Dense(2 * self.latent_shape[-1], dtype=jnp.float32, name="head")(h)
        mean, raw_std = jnp.split(statistics, 2, axis=-1)
        return DiagonalGaussian(mean, jnp.log(nn.softplus(raw_std) + MIN_STD))


class Decoder(_Network):
    """Maps latents [B, *latent_shape] to likelihood parameters, float32 [B, H, W, num_outputs].

    With `has_log_std` the last output channel is one learned scalar, the same for all pixels and
    images.
    """

    image_shape: ImageShape
    num_outputs: int
    has_log_std: bool

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        h = z.astype(self.dtype)
        last = len(self.widths) - 1
        if h.ndim == 2:
            height, width = (n // (self.patch_size * 2**last) for n in self.image_shape[:2])
            h = nn.Dense(height * width * self.widths[-1], dtype=self.dtype, name="stem")(h)
            h = h.reshape(h.shape[0], height, width, self.widths[-1])
        else:
            h = nn.Conv(self.widths[-1], (3, 3), dtype=self.dtype, name="stem")(h)
        for i in range(last, -1, -1):
            h = self._stage(i, h)
            if i > 0:
                upsample = PositionWise(
                    4 * self.widths[i - 1], dtype=self.dtype, name=f"upsample_{i}"
                )
                h = depth_to_space(upsample(h), 2)
        h = nn.silu(group_norm(h.shape[-1], self.dtype)(h))
        num_maps = self.num_outputs - int(self.has_log_std)
        # In float32, because near 1 bfloat16 is coarser than the 256 levels of an image.
        h = nn.Conv(num_maps * self.patch_size**2, (3, 3), dtype=jnp.float32, name="head")(h)
        outputs = depth_to_space(h, self.patch_size)
        if self.has_log_std:
            log_std = self.param("log_std", nn.initializers.constant(-1.0), (), jnp.float32)
            outputs = jnp.concatenate(
                [outputs, jnp.broadcast_to(log_std, (*outputs.shape[:-1], 1))], axis=-1
            )
        return outputs


class VAE(nn.Module):
    """Encoder, decoder and prior under one set of parameters.

    Attributes:
      image_shape: (H, W, C).
      latent_shape: (D,) or (h, w, c).
      num_outputs: likelihood parameters per pixel.
      has_log_std: whether the last of these parameters is one learned scalar.
      widths: channels of each stage, from the highest resolution to the lowest.
      num_blocks: residual blocks of each stage, in the encoder and again in the decoder.
      patch_size: side of the pixel patches that the first stage sees as one position.
      attention_resolutions: heights of feature maps that are followed by self-attention.
      dtype: type of the activations; parameters, the last layers and outputs are float32.
      remat: whether the backward pass recomputes activations, which saves memory but takes longer.
      make_prior: maps the `VAEParts` to the prior p(z); None: N(0, I).
    """

    image_shape: ImageShape
    latent_shape: tuple[int, ...]
    num_outputs: int
    has_log_std: bool = False
    widths: tuple[int, ...] = (64, 128)
    num_blocks: tuple[int, ...] = (2, 2)
    patch_size: int = 2
    attention_resolutions: tuple[int, ...] = ()
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    make_prior: Callable[[VAEParts], Prior] | None = None

    def setup(self) -> None:
        stages = (self.widths, self.num_blocks, self.patch_size, self.attention_resolutions)
        shared = (*stages, self.dtype, self.remat)
        self.encoder = Encoder(*shared, self.latent_shape)
        self.decoder = Decoder(*shared, self.image_shape, self.num_outputs, self.has_log_std)
        parts = VAEParts(self.latent_shape, self.image_shape, self.encoder, self.dtype)
        make_prior = self.make_prior
        self.prior = make_prior(parts) if make_prior else StandardNormal(self.latent_shape)

    @property
    def latents(self) -> PyTree:
        """Shape and dtype of z without its batch axis; a tree if there are groups of latents."""
        return jax.ShapeDtypeStruct(self.latent_shape, jnp.float32)

    def encode(self, x: jax.Array) -> DiagonalGaussian:
        """Maps images [B, H, W, C] in [0, 1] to q(z | x)."""
        return self.encoder(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """Maps latents [B, *latent_shape] to likelihood parameters [B, H, W, num_outputs]."""
        return self.decoder(z)

    def prior_log_prob(self, z: jax.Array, keys: jax.Array) -> jax.Array:
        """Returns log p(z), [B], or an estimate of a lower bound on it; see `Prior.log_prob`."""
        return self.prior.log_prob(z, keys)

    def prior_loss(self, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (what training minimises, log p(z) or its bound), both [B]; see `Prior.loss`."""
        return self.prior.loss(z, key)

    def sample_prior(self, key: jax.Array, num_samples: int, temperature: float) -> jax.Array:
        """Draws z ~ p(z), [num_samples, *latent_shape]."""
        return self.prior.sample(key, num_samples, temperature)

    def latents_to_noise(self, z: jax.Array) -> jax.Array:
        """Maps latents to noise, both [B, *latent_shape]; see `Prior.to_noise`."""
        return self.prior.to_noise(z)

    def latents_from_noise(self, noise: jax.Array) -> jax.Array:
        """Maps noise to latents, both [B, *latent_shape]; see `Prior.from_noise`."""
        return self.prior.from_noise(noise)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Decodes the posterior mean; for `init`, on a path through all parameters."""
        z = jnp.asarray(self.encode(x).mean)
        self.prior_loss(z, jax.random.key(0))
        return self.decode(z)


def check_shapes(model: VAE) -> None:
    """Raises an InputError if the attributes do not fit one another or the images."""
    widths, num_blocks, latent_shape = model.widths, model.num_blocks, model.latent_shape
    if len(num_blocks) != len(widths) or any(n < 0 for n in num_blocks):
        raise InputError(
            f"model.num_blocks = {num_blocks} must have one number, 0 or more, for each of "
            f"model.widths = {widths}."
        )
    factor = model.patch_size * 2 ** (len(widths) - 1)
    height, width, _ = model.image_shape
    if height % factor or width % factor:
        raise InputError(
            f"model.patch_size = {model.patch_size} with {len(widths)} model.widths divides images "
            f"by {factor}, but {height}x{width} is not a multiple of {factor}: use another patch "
            "size or fewer widths."
        )
    if len(latent_shape) not in (1, 3) or any(n < 1 for n in latent_shape):
        raise InputError(
            f"model.latent_shape = {latent_shape} must be (D,) for a vector or (h, w, c) for a "
            "grid, all at least 1."
        )
    resolution = (height // factor, width // factor)
    if len(latent_shape) == 3 and tuple(latent_shape[:2]) != resolution:
        raise InputError(
            f"model.latent_shape = {latent_shape} must begin with the last stage's resolution "
            f"{resolution}: change it, model.patch_size or the number of model.widths."
        )
    stages = {height // (model.patch_size * 2**i): width for i, width in enumerate(widths)}
    for attended in model.attention_resolutions:
        if attended not in stages or stages[attended] % NUM_HEADS:
            raise InputError(
                f"model.attention_resolutions = {model.attention_resolutions} must be heights of "
                f"stages whose width is a multiple of {NUM_HEADS}: choose from "
                f"(height: width) {stages}."
            )
