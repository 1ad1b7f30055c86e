"""What is trained: a whole VAE (`VAETask`), or a prior on a frozen VAE (`PriorTask`)."""

import abc
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import objectives, streams
from vae_jax.data import Split
from vae_jax.distributions import reparameterise, sample_posterior, standard_normal_noise
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.typing import Array, PyTree

LOGGER = logging.getLogger(__name__)
NUM_IMAGES = 60_000  # largest number of images from which a prior starts

# Rows of the training split by name: x, the images, uint8 [N, H, W, C] or float in [0, 1]; label,
# uint8 [N], if the dataset has labels. A task may keep other rows in their place.
Rows: TypeAlias = dict[str, PyTree]
# The loss of a batch, with (metrics, optimal log_std). The metrics are means over the batch; the
# log_std is None unless the likelihood has an optimal scale.
Loss: TypeAlias = tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array | None]]
# (initial parameters of a prior, images, draws from their posteriors or None) -> parameters.
StartPrior: TypeAlias = Callable[[dict, np.ndarray, np.ndarray | None], dict]


class EncodingVAE(Protocol):
    """What a task needs of a trained VAE."""

    params: PyTree
    step: int

    def encode(self, images: Array) -> PyTree:
        """Computes q(z | x) of uint8 images [N, H, W, C]."""


LoadVAE: TypeAlias = Callable[[str], EncodingVAE]  # from the workdir of a run


@flax.struct.dataclass
class Batch:
    """The inputs of a loss in addition to the parameters.

    Attributes:
      x: images that the model sees, float32 [B, H, W, C] in [0, 1]; None if there is `posterior`.
      posterior: q(z | x) of these images if it was computed before training, otherwise None.
      label: uint8 [B]; None if the dataset has no labels.
      noise: N(0, I) noise of the draws from the posterior, [B, *latent_shape].
      prior_key: random key of what the prior draws for its loss.
    """

    x: jax.Array | None
    posterior: PyTree
    label: jax.Array | None
    noise: PyTree
    prior_key: jax.Array


def split_batch(batch: Batch, num_parts: int) -> Batch:
    """Splits a batch into parts of equal size, along a new first axis of each attribute.

    Part i has every num_parts-th image, so that each device keeps the images it has.
    """

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1)

    parts = jnp.arange(num_parts)
    prior_keys = jax.vmap(lambda i: jax.random.fold_in(batch.prior_key, i))(parts)
    x, posterior, label, noise = jax.tree.map(
        split, (batch.x, batch.posterior, batch.label, batch.noise)
    )
    return Batch(x, posterior, label, noise, prior_keys)


def to_unit_interval(images: Array) -> jax.Array:
    """Maps uint8 images to float32 in [0, 1]; floating-point images only become float32."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images.astype(jnp.float32) / 255.0)
    return jnp.asarray(images.astype(jnp.float32))


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def choose_flipped(key: jax.Array, posterior: PyTree) -> PyTree:
    """Selects the posteriors of the images that `random_flip` would give.

    Args:
      key: the key that `random_flip` would get.
      posterior: q(z | x) of the images and of their mirror images, [B, 2, *latent_shape]; or of the
        images alone, [B, 1, *latent_shape], which leaves no choice.

    Returns:
      q(z | random_flip(key, x)), [B, *latent_shape].
    """
    num_images, num_variants = jax.tree.leaves(posterior)[0].shape[:2]
    flip = jax.random.bernoulli(key, shape=(num_images, 1, 1, 1)).reshape(-1)
    variant = jnp.where(flip, num_variants - 1, 0)
    return jax.tree.map(lambda a: a[jnp.arange(num_images), variant], posterior)


def readers(split: Split) -> dict[str, Callable[[np.ndarray | slice], np.ndarray]]:
    """Returns functions from positions in a split to its rows there, by the name of the row."""
    labels = {} if split.labels is None else {"label": split.take_labels}
    return {"x": split.take, **labels}


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """What is trained: the loss, the trained parameters and their start, and the rows it needs.

    Attributes:
      model: the VAE with its prior.
      likelihood: p(x | z).
      flip: whether to mirror images at random.
      seed: seed of the run, for the choice of the images from which the prior starts.
      start_prior: sets the parameters of the prior that come from images or codes; None: there are
        none.
    """

    model: VAE
    likelihood: Likelihood
    flip: bool = False
    seed: int = 0
    start_prior: StartPrior | None = None

    @abc.abstractmethod
    def loss(self, params: PyTree, batch: Batch, kl_weight: jax.typing.ArrayLike) -> Loss:
        """Computes the scalar that training minimises."""

    def trained(self, params: PyTree) -> PyTree:
        """Returns the part of `params` that is trained; by default all of them."""
        return params

    def with_trained(self, params: PyTree, trained: PyTree) -> PyTree:
        """Returns `params` with this trained part."""
        return trained

    def start(self, params: PyTree, train: Split, load: LoadVAE) -> PyTree:
        """Sets those initial parameters that come from data or from another run.

        Args:
          params: freshly initialised parameters of the model.
          train: the training split.
          load: loads the VAE of a workdir.
        """
        return params

    def resident_rows(self, train: Split, vae: EncodingVAE, num_seen: int) -> Rows:
        """Returns the rows of the whole training split that are kept in device memory.

        Args:
          train: the training split.
          vae: the model with the present raw parameters.
          num_seen: number of images that training will see, with repetitions.
        """
        return {name: read(slice(None)) for name, read in readers(train).items()}

    def prepare(self, rows: Rows, key: jax.Array, step: jax.typing.ArrayLike) -> Batch:
        """Returns the batch of a training step.

        Args:
          rows: rows of the step.
          key: the stream 'train' of the run.
          step: number of the step, from 0.
        """
        keys = streams.step_keys(key, step)
        x = self._observe(rows, keys)
        return self._batch(rows, keys, x, None)

    def _observe(self, rows: Rows, keys: streams.StepKeys) -> jax.Array:
        """Returns the images that the model sees, float32 [B, H, W, C]."""
        x = to_unit_interval(rows["x"])
        if self.flip:
            x = random_flip(keys.flip, x)
        if self.likelihood.binarize:
            x = jax.random.bernoulli(keys.binary, x).astype(jnp.float32)
        return x

    def _batch(
        self, rows: Rows, keys: streams.StepKeys, x: jax.Array | None, posterior: PyTree
    ) -> Batch:
        num_images = len(jax.tree.leaves((x, posterior))[0])
        noise = standard_normal_noise(keys.posterior, self.model.latents, num_images)
        return Batch(x, posterior, rows.get("label"), noise, keys.prior)

    def _images_for_prior(self, train: Split) -> np.ndarray:
        """Returns random training images, uint8 [N, H, W, C], from which the prior starts."""
        return train.take(np.random.default_rng(self.seed).permutation(len(train))[:NUM_IMAGES])

    def _apply(self, params: PyTree, *arguments: Any, method: str) -> Any:
        """Calls a method of the model with these parameters."""
        return self.model.apply({"params": params}, *arguments, method=method)


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
