"""A mixture of Gaussians with diagonal covariances as a prior, learned in training."""

import math

import flax.linen as nn
import jax
import numpy as np

from vae_jax.priors.base import register
from vae_jax.priors.diagonal_mixture import NUM_COMPONENTS, DiagonalMixture, choose_rows
from vae_jax.typing import PyTree

# Lower bound on the standard deviation of a latent dimension; a constant one has infinite density.
MIN_STD = 1e-4


@register("mixture", num_components=NUM_COMPONENTS)
class GaussianMixture(DiagonalMixture):
    """A mixture of K Gaussians; weights, means and standard deviations are learned in training.

    Attributes:
      num_components: K.
    """

    num_components: int = 100
    standardised = True

    @classmethod
    def start_from_data(
        cls, params: PyTree, images: np.ndarray, z: np.ndarray | None, seed: int
    ) -> PyTree:
        """Sets a kernel density of as many random latents as there are components.

        All components get the standard deviations of the latents times K^(-1 / (D + 4)), a factor
        close to 1 in many dimensions (Scott's rule; Scott 1992, Multivariate Density Estimation).
        """
        assert z is not None  # the codes of a trained VAE
        z = np.asarray(z, np.float64).reshape(len(z), -1)
        num_components, dimension = len(params["logits"]), z.shape[1]
        rows = choose_rows(len(z), num_components, np.random.default_rng(seed))
        stds = np.maximum(z.std(axis=0), MIN_STD) * num_components ** (-1.0 / (dimension + 4))
        return {
            "logits": np.zeros(num_components, np.float32),
            "means": z[rows].astype(np.float32),
            "log_stds": np.tile(np.log(stds), (num_components, 1)).astype(np.float32),
        }

    def setup(self) -> None:
        shape = (self.num_components, math.prod(self.latent_shape))
        self.logits = self.param("logits", nn.initializers.zeros, shape[:1])
        # Random means, because equal components would receive equal gradients and stay equal.
        self.means = self.param("means", nn.initializers.normal(0.5), shape)
        self.log_stds = self.param("log_stds", nn.initializers.zeros, shape)

    def components(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jax.nn.log_softmax(self.logits), self.means, self.log_stds
