"""A mixture of Gaussians with full covariances, fitted to the latents of a trained VAE."""

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from vae_jax.distributions import normal_log_prob, sum_event
from vae_jax.errors import InputError
from vae_jax.priors.base import Prior, register
from vae_jax.priors.diagonal_mixture import NUM_COMPONENTS, draw_components, matmul
from vae_jax.typing import PyTree

LOGGER = logging.getLogger(__name__)


@register("ex_post_mixture", num_components=NUM_COMPONENTS)
class FullGaussianMixture(Prior):
    """A mixture of K Gaussians with full covariances, set to the result of `fit_full_mixture`.

    It starts as N(0, I). Source: ex-post density estimation, Ghosh et al. 2020 (arXiv:1903.12436).
    As in scikit-learn's `precisions_cholesky_`, component k has the precision P P^T with P upper
    triangular, and (z - mean) P is standard normal. Entries below the diagonal are ignored.

    Attributes:
      num_components: K.
    """

    num_components: int = 100
    standardised = True
    trains_in_steps = False

    @classmethod
    def gives_bound(cls, options: Mapping[str, Any]) -> bool:
        return False

    @classmethod
    def start_from_data(
        cls, params: PyTree, images: np.ndarray, z: np.ndarray | None, seed: int
    ) -> PyTree:
        assert z is not None  # the codes of a trained VAE
        return fit_full_mixture(z, len(params["logits"]), seed)

    def setup(self) -> None:
        num_components, dimension = self.num_components, math.prod(self.latent_shape)
        self.logits = self.param("logits", nn.initializers.zeros, (num_components,))
        self.means = self.param("means", nn.initializers.zeros, (num_components, dimension))
        self.precision_cholesky = self.param(
            "precision_cholesky",
            lambda _: jnp.tile(jnp.eye(dimension), (num_components, 1, 1)),
        )

    def log_prob(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        z = z.reshape(z.shape[0], -1)

        def component_log_prob(component: tuple[jax.Array, jax.Array]) -> jax.Array:
            mean, cholesky = component
            whitened = matmul(z - mean, cholesky)
            log_det = jnp.log(jnp.abs(jnp.diagonal(cholesky))).sum()
            return sum_event(normal_log_prob(whitened, 0.0, 0.0)) + log_det

        # The mixture is fitted as a whole; no training step may change it.
        logits, means, cholesky = jax.lax.stop_gradient(
            (self.logits, self.means, jnp.triu(self.precision_cholesky))
        )
        # One component at a time: few products [B, D] x [D, D], and the memory of one.
        log_probs = jax.lax.map(component_log_prob, (means, cholesky))
        return logsumexp(jax.nn.log_softmax(logits)[:, None] + log_probs, axis=0)

    def sample(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> jax.Array:
        """Draws [num_samples, *latent_shape]; the components do not depend on the temperature."""
        log_weights, dimension = jax.nn.log_softmax(self.logits), self.means.shape[1]
        chosen, noise = draw_components(key, num_samples, log_weights, dimension)

        def add_component(
            deviations: jax.Array, component: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, None]:
            index, cholesky = component
            solved = solve_triangular(cholesky, noise.T, trans=1).T  # z - mean = noise P^-1
            return jnp.where((chosen == index)[:, None], solved, deviations), None

        # All noise passes through every component: K times the work, but no factor [D, D] for each
        # sample. The solver reads nothing below the diagonal.
        parameters = (jnp.arange(self.num_components), self.precision_cholesky)
        deviations, _ = jax.lax.scan(add_component, jnp.zeros_like(noise), parameters)
        z = self.means[chosen] + temperature * deviations
        return z.reshape(num_samples, *self.latent_shape)


def fit_full_mixture(z: np.ndarray, num_components: int, seed: int) -> dict[str, np.ndarray]:
    """Fits the parameters of a FullGaussianMixture by expectation maximisation, in float64.

    Args:
      z: latents, [N, *latent_shape], with N greater than D and at least `num_components`.
      num_components: K.
      seed: random seed of the k-means from which EM starts.

    Raises:
      InputError: too few latents.
    """
    # Imported here because the import takes a second and nothing else needs it.
    from sklearn import mixture
    from sklearn.exceptions import ConvergenceWarning

    z = np.asarray(z, np.float64).reshape(len(z), -1)
    num_latents, dimension = z.shape
    if num_latents <= dimension or num_latents < num_components:
        raise InputError(
            f"{num_latents} latents of {dimension} dimensions do not determine {num_components} "
            "full covariances: use more images, a model.latent_shape of fewer dimensions or fewer "
            "components."
        )
    model = mixture.GaussianMixture(
        num_components, covariance_type="full", reg_covar=1e-6, max_iter=100, random_state=seed
    )
    with warnings.catch_warnings():
        # Logged below. The warning of k-means about equal latents has the same class but is shown.
        warnings.filterwarnings("ignore", ".*did not converge", ConvergenceWarning)
        model.fit(z)
    if not model.converged_:
        LOGGER.warning(
            "The mixture of %d Gaussians has not converged in %d iterations of EM.",
            num_components,
            model.n_iter_,
        )
    return {
        "logits": np.log(model.weights_).astype(np.float32),
        "means": model.means_.astype(np.float32),
        "precision_cholesky": model.precisions_cholesky_.astype(np.float32),
    }
