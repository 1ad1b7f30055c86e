"""Priors by their names in a configuration."""

import flax.linen as nn
import jax.numpy as jnp

from vae_jax.blocks import NUM_HEADS
from vae_jax.errors import InputError
from vae_jax.priors import diffusion, networks, samplers
from vae_jax.priors.base import Prior, Standardised, StandardNormal
from vae_jax.priors.flow import Flow, coupling_masks
from vae_jax.priors.mixture import FullGaussianMixture, GaussianMixture
from vae_jax.priors.vamp import VampPrior

PRIORS = ("standard_normal", "vamp", "mixture", "ex_post_mixture", "flow", "diffusion")


def create_prior(
    name: str,
    latent_shape: tuple[int, ...],
    image_shape: tuple[int, int, int],
    encoder: nn.Module,
    num_components: int = 100,
    num_couplings: int = 8,
    widths: tuple[int, ...] = (64,),
    num_blocks: int = 2,
    attention_resolutions: tuple[int, ...] = (),
    weighting: str = "bound",
    sampler: str = "ddim",
    num_sampling_steps: int = 50,
    dtype: jnp.dtype = jnp.float32,
) -> Prior:
    """The prior of a config's name; those that are learned from codes see them standardised.

    Args:
      name: one of PRIORS.
      latent_shape: (D,) or (h, w, c).
      image_shape: (H, W, C), of the VampPrior's pseudo-inputs.
      encoder: that of the VAE, which a VampPrior shares.
      num_components: of the mixtures and the VampPrior.
      num_couplings: of the flow.
      widths: channels of the networks: a diffusion's levels; the flow and vectors use the first.
      num_blocks: residual blocks of each level, or of each coupling.
      attention_resolutions: heights at which a diffusion's blocks are followed by self-attention.
      weighting, sampler, num_sampling_steps: as in `Diffusion`.
      dtype: of a diffusion network's activations.
    """
    check_options(name, latent_shape, widths, weighting, sampler, attention_resolutions)
    if name == "standard_normal":
        return StandardNormal(latent_shape)
    if name == "vamp":
        return VampPrior(latent_shape, image_shape, encoder, num_components)
    if name == "mixture":
        base = GaussianMixture(latent_shape, num_components)
    elif name == "ex_post_mixture":
        base = FullGaussianMixture(latent_shape, num_components)
    elif name == "flow":
        base = Flow(latent_shape, num_couplings, widths[0], num_blocks)
    else:
        if len(latent_shape) == 1:
            network = networks.MLP(widths[0], num_blocks, dtype)
        else:
            network = networks.UNet(widths, num_blocks, attention_resolutions, dtype)
        base = diffusion.Diffusion(
            latent_shape,
            network,
            weighting=weighting,
            sampler=sampler,
            num_sampling_steps=num_sampling_steps,
        )
    return Standardised(latent_shape, base)


def check_options(
    name: str,
    latent_shape: tuple[int, ...],
    widths: tuple[int, ...],
    weighting: str,
    sampler: str,
    attention_resolutions: tuple[int, ...] = (),
) -> None:
    """Raises a ValueError for an unknown name, or for what does not fit the latent."""
    for key, value, valid in (
        ("prior.name", name, PRIORS),
        ("prior.weighting", weighting, diffusion.WEIGHTINGS),
        ("prior.sampler", sampler, samplers.SAMPLERS),
    ):
        if value not in valid:
            raise InputError(f"{key} = {value!r} is unknown: use one of {', '.join(valid)}.")
    if not widths or any(width < 1 for width in widths):
        raise InputError(f"prior.widths = {widths} must be positive channel counts.")
    if name == "flow":
        coupling_masks(latent_shape, num_couplings=1)
    if name != "diffusion" or len(latent_shape) == 1:
        return
    factor = 2 ** (len(widths) - 1)
    if any(n % factor for n in latent_shape[:2]):
        raise InputError(
            f"prior.widths = {widths} halves the latent grid {latent_shape[:2]} "
            f"{len(widths) - 1} times, of which it is no multiple: use fewer widths."
        )
    levels = {latent_shape[0] // 2**i: width for i, width in enumerate(widths)}
    for height in attention_resolutions:
        if height not in levels or levels[height] % NUM_HEADS:
            raise InputError(
                f"prior.attention_resolutions = {attention_resolutions} must be heights of levels "
                f"whose width is a multiple of {NUM_HEADS}; height: width is {levels}."
            )
