"""Training of a prior on a VAE whose encoder and decoder stay as they are."""

import dataclasses
import logging

import jax
import numpy as np

from vae_jax import objectives, streams
from vae_jax.data import Split
from vae_jax.distributions import reparameterise, sample_posterior
from vae_jax.tasks.base import EncodingVAE, LoadVAE, Loss, Rows, Task
from vae_jax.tasks.batch import Batch, choose_flipped
from vae_jax.typing import PyTree

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorTask(Task):
    """Fits the prior to draws from the posteriors of a frozen VAE. Nothing is decoded.

    The draws are new in each step. The posteriors are computed once, before training, if that pays
    off.

    Attributes:
      vae_workdir: workdir of the frozen VAE.
    """

    vae_workdir: str

    def loss(self, params: PyTree, batch: Batch, kl_weight: jax.typing.ArrayLike) -> Loss:
        """Computes the loss of the prior, with the rate as the only metric."""
        posterior = batch.posterior
        if posterior is None:
            posterior = self._apply(params, batch.x, method="encode")
        z = reparameterise(posterior, batch.noise)
        loss, log_prior = self._apply(params, z, batch.prior_key, method="prior_loss")
        rate = objectives.compute_rate(posterior, z, log_prior)
        return loss.mean(), ({"rate": rate.mean()}, None)

    def trained(self, params: PyTree) -> PyTree:
        """Returns the parameters of the prior."""
        return params["prior"]

    def with_trained(self, params: PyTree, trained: PyTree) -> PyTree:
        """Returns `params` with these parameters of the prior."""
        return {**params, "prior": trained}

    def start(self, params: PyTree, train: Split, load: LoadVAE) -> PyTree:
        """Takes encoder and decoder from the frozen VAE, and starts the prior from its codes."""
        assert self.start_prior is not None  # the prior has parameters: they are trained
        vae = load(self.vae_workdir)
        LOGGER.info("Training a prior on the VAE %s, step %d.", self.vae_workdir, vae.step)
        params = {**params, **{part: vae.params[part] for part in ("encoder", "decoder")}}
        images = self._images_for_prior(train)
        z = sample_posterior(vae.encode(images), streams.stream("codes", self.seed))
        prior = self.start_prior(dict(params["prior"]), images, jax.tree.map(np.asarray, z))
        return {**params, "prior": prior}

    def resident_rows(self, train: Split, vae: EncodingVAE, num_seen: int) -> Rows:
        """Returns q(z | x) of all images, or the images if encoding them in each step costs less.

        The posteriors, float32 [N, 1 or 2, *latent_shape], are those of the images and, with
        `flip`, of their mirror images. Binarised images change in every step, so they are always
        encoded there.
        """
        rows = super().resident_rows(train, vae, num_seen)
        if self.likelihood.binarize or num_seen <= len(train) * (1 + self.flip):
            return rows
        images = rows.pop("x")
        variants = [images, images[:, :, ::-1]] if self.flip else [images]
        LOGGER.info("Encoding %s images once.", f"{len(variants) * len(images):,}")
        posteriors = [vae.encode(variant) for variant in variants]
        return rows | {
            "posterior": jax.tree.map(lambda *parts: np.stack(parts, axis=1), *posteriors)
        }

    def prepare(self, rows: Rows, key: jax.Array, step: jax.typing.ArrayLike) -> Batch:
        """Returns the batch of a training step, with the posteriors if they are resident."""
        if "posterior" not in rows:
            return super().prepare(rows, key, step)
        keys = streams.step_keys(key, step)
        posterior = choose_flipped(keys.flip, rows["posterior"])
        return self._batch(rows, keys, None, posterior)
