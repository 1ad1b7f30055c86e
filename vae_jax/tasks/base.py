"""The interface of all tasks, and what they share."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import streams
from vae_jax.data import Split
from vae_jax.distributions import standard_normal_noise
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.tasks.batch import Batch, random_flip, to_unit_interval
from vae_jax.typing import Array, PyTree

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
