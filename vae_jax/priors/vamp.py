"""The VampPrior: a mixture of the encoder's own posteriors at learned images."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from vae_jax.errors import InputError
from vae_jax.priors.mixture import DiagonalMixture, choose_rows


class VampPrior(DiagonalMixture):
    """1/K sum_k q(z | u_k) with pseudo-inputs u_k (Tomczak & Welling 2018, arXiv:1705.07120).

    The pseudo-inputs are the sigmoid of parameters: clipping to [0, 1] would stop the gradients of
    pixels at either end, which most are in images on a uniform background.

    Attributes:
      image_shape: (H, W, C) of a pseudo-input.
      encoder: images [B, H, W, C] in [0, 1] -> DiagonalGaussian over z. Where it is a submodule of
        the module that creates this prior, that module owns its parameters and this one has none.
      num_components: K.
    """

    image_shape: tuple[int, int, int]
    encoder: nn.Module
    num_components: int = 128

    def setup(self):
        self.pseudo_inputs = self.param(
            "pseudo_inputs", nn.initializers.normal(1.0), (self.num_components, *self.image_shape)
        )

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        q = self.encoder(nn.sigmoid(self.pseudo_inputs))
        shape = (self.num_components, math.prod(self.latent_shape))
        log_weights = jnp.full(self.num_components, -math.log(self.num_components))
        return log_weights, q.mean.reshape(shape), q.log_std.reshape(shape)


def initialise_pseudo_inputs(
    images: np.ndarray, num_components: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Parameters of VampPrior: random images, clipped to [0.01, 0.99] to have finite logits.

    Args:
      images: uint8 [N, H, W, C].
      num_components: K.
      rng: chooses the images.
    """
    if images.dtype != np.uint8:
        raise InputError(f"Images must be uint8 in 0..255, not {images.dtype}.")
    chosen = images[choose_rows(len(images), num_components, rng)] / 255.0
    return {"pseudo_inputs": logit(np.clip(chosen, 0.01, 0.99)).astype(np.float32)}
