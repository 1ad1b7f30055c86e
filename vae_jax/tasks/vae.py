"""Training of a whole VAE: encoder, decoder and prior."""

import dataclasses

import jax

from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.distributions import reparameterise
from vae_jax.tasks.base import LoadVAE, Loss, Task
from vae_jax.tasks.batch import Batch
from vae_jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class VAETask(Task):
    """Minimises the negative bound, with a weight on the rate.

    Attributes:
      free_bits: nats that are free in each latent dimension.
      distortion_weight: weight of the distortion in the loss.
    """

    free_bits: float = 0.0
    distortion_weight: float = 1.0

    def loss(self, params: PyTree, batch: Batch, kl_weight: jax.typing.ArrayLike) -> Loss:
        """Computes the loss of the whole VAE, with the terms of the bound as metrics."""
        assert batch.x is not None  # `prepare` sets it
        posterior = self._apply(params, batch.x, method="encode")
        z = reparameterise(posterior, batch.noise)
        _, log_prior = self._apply(params, z, batch.prior_key, method="prior_loss")
        outputs = self._apply(params, z, method="decode")
        log_std = None
        if self.likelihood.optimal_scale:
            log_std = self.likelihood.batch_optimal_log_std(outputs, batch.x)
            outputs = outputs.at[..., -1].set(log_std)
        terms = objectives.compute_elbo_terms(
            self.likelihood, posterior, z, log_prior, outputs, batch.x
        )
        loss = objectives.compute_loss(terms, kl_weight, self.free_bits, self.distortion_weight)
        names = ("elbo", "rate", "distortion")
        return loss, ({name: getattr(terms, name).mean() for name in names}, log_std)

    def start(self, params: PyTree, train: Split, load: LoadVAE) -> PyTree:
        """Sets the parameters of the prior that come from images, such as pseudo-inputs."""
        if self.start_prior is None:
            return params
        prior = self.start_prior(dict(params["prior"]), self._images_for_prior(train), None)
        return {**params, "prior": prior}
