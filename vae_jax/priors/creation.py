"""Creates a prior from its name and options in a configuration, and checks the options."""

import flax.linen as nn
import jax.numpy as jnp

from vae_jax.blocks import NUM_HEADS
from vae_jax.errors import InputError
from vae_jax.priors import diffusion, networks, samplers
from vae_jax.priors.base import Prior, Standardised, StandardNormal
from vae_jax.priors.flow import Flow, coupling_masks
from vae_jax.priors.mixture import FullGaussianMixture, GaussianMixture
from vae_jax.priors.vamp import VampPrior
from vae_jax.typing import ImageShape

PRIORS = ("standard_normal", "vamp", "mixture", "ex_post_mixture", "flow", "diffusion")


def create_prior(
    name: str,
    latent_shape: tuple[int, ...],
    image_shape: ImageShape,
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
    """Returns the prior `name`; all but N(0, I) and the VampPrior see standardised codes.

    Args:
      name: one of PRIORS.
      latent_shape: (D,) or (h, w, c).
      image_shape: (H, W, C), shape of the VampPrior's pseudo-inputs.
      encoder: encoder of the VAE, which the VampPrior shares.
      num_components: number of components of a mixture or of the VampPrior.
      num_couplings: number of couplings of the flow.
      widths: channels of the levels of a diffusion's U-Net. A diffusion of vectors and the flow use
        the first only.
      num_blocks: residual blocks of each level, or of each coupling.
      attention_resolutions: heights at which a diffusion's blocks are followed by self-attention.
      weighting, sampler, num_sampling_steps: as in `Diffusion`.
      dtype: type of the activations of a diffusion's network.

    Raises:
      InputError: an option is unknown or does not fit the latent; see `check_options`.
    """
    check_options(name, latent_shape, widths, weighting, sampler, attention_resolutions)
    if name == "standard_normal":
        return StandardNormal(latent_shape)
    if name == "vamp":
        return VampPrior(latent_shape, image_shape, encoder, num_components)
    base: Prior
    if name == "mixture":
        base = GaussianMixture(latent_shape, num_components)
    elif name == "ex_post_mixture":
        base = FullGaussianMixture(latent_shape, num_components)
    elif name == "flow":
        base = Flow(latent_shape, num_couplings, widths[0], num_blocks)
    else:
        network: nn.Module
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
    """Raises an InputError if a name is unknown or an option does not fit the latent."""
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
            f"{len(widths) - 1} times, so its sides must be multiples of {factor}: use fewer "
            "widths."
        )
    levels = {latent_shape[0] // 2**i: width for i, width in enumerate(widths)}
    for height in attention_resolutions:
        if height not in levels or levels[height] % NUM_HEADS:
            raise InputError(
                f"prior.attention_resolutions = {attention_resolutions} must be heights of levels "
                f"whose width is a multiple of {NUM_HEADS}: choose from "
                f"(height: width) {levels}."
            )
