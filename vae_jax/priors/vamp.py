"""The VampPrior: a mixture of the encoder's posteriors of learned pseudo-inputs."""

import math
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from vae_jax.errors import InputError
from vae_jax.priors.base import VAEParts, register
from vae_jax.priors.diagonal_mixture import NUM_COMPONENTS, DiagonalMixture, choose_rows
from vae_jax.typing import ImageShape, PyTree


@register("vamp", num_components=NUM_COMPONENTS)
class VampPrior(DiagonalMixture):
    """1/K sum_k q(z | u_k) with pseudo-inputs u_k (Tomczak & Welling 2018, arXiv:1705.07120).

    The pseudo-inputs are the sigmoid of parameters. Clipping to [0, 1] would instead stop the
    gradients of pixels at either end, and most pixels of images on a uniform background are there.

    Attributes:
      image_shape: (H, W, C), shape of a pseudo-input.
      encoder: images [B, H, W, C] in [0, 1] -> DiagonalGaussian over z. If it is a submodule of the
        module that creates this prior, that module owns its parameters.
      num_components: K.
    """

    image_shape: ImageShape
    encoder: nn.Module
    num_components: int = 100

    @classmethod
    def create(cls, vae: VAEParts, **options: Any) -> Self:
        return cls(vae.latent_shape, vae.image_shape, vae.encoder, **options)

    @classmethod
    def start_from_data(
        cls, params: PyTree, images: np.ndarray, z: np.ndarray | None, seed: int
    ) -> PyTree:
        """Sets the pseudo-inputs to random images; clipping to [0.01, 0.99] keeps logits finite.

        Raises:
          InputError: images that are not uint8.
        """
        if images.dtype != np.uint8:
            raise InputError(f"Images must be uint8 in 0..255, not {images.dtype}.")
        rows = choose_rows(len(images), len(params["pseudo_inputs"]), np.random.default_rng(seed))
        logits = logit(np.clip(images[rows] / 255.0, 0.01, 0.99))
        return {**params, "pseudo_inputs": logits.astype(np.float32)}

    def setup(self) -> None:
        self.pseudo_inputs = self.param(
            "pseudo_inputs", nn.initializers.normal(1.0), (self.num_components, *self.image_shape)
        )

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        q = self.encoder(nn.sigmoid(self.pseudo_inputs))
        shape = (self.num_components, math.prod(self.latent_shape))
        log_weights = jnp.full(self.num_components, -math.log(self.num_components))
        return log_weights, q.mean.reshape(shape), q.log_std.reshape(shape)
