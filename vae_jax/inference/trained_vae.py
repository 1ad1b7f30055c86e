"""A trained VAE for scripts and notebooks: `model = vae_jax.load("workdir/demo")`.

It encodes and decodes images, draws samples, and computes bounds on their likelihood.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vae_jax import config as configuration
from vae_jax import experiment, objectives
from vae_jax.checkpoints import Checkpoints, state
from vae_jax.distributions import DiagonalGaussian
from vae_jax.errors import InputError
from vae_jax.inference.steps import EvalSteps
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.runtime import sharding
from vae_jax.typing import Array, ImageShape, PyTree


class TrainedVAE:
    """A VAE with its parameters. Its methods take any number of images and return NumPy arrays.

    Images are [N, H, W, C], uint8 in [0, 255] or floating-point in [0, 1]; returned images are
    float32 in [0, 1]. A model of binary images sees binary draws from the given ones; the draw for
    an image depends on its position in the argument. The methods work in batches of `batch_size`,
    of which the last is padded, on the devices of one mesh; results depend on neither. If the mesh
    spans several processes, all of them must make the same calls.

    Attributes:
      model: the network.
      likelihood: p(x | z).
      params: the evaluated parameters, by default the averaged ones (EMA).
      config: run configuration.
      step: training step of the checkpoint.
      batch_size: images per call over all devices, rounded up to a multiple of their number.
    """

    def __init__(
        self,
        model: VAE,
        likelihood: Likelihood,
        params: PyTree,
        config: ConfigDict,
        step: int = 0,
        eval_steps: EvalSteps | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.likelihood, self.params = model, likelihood, params
        self.config, self.step = config, step
        if eval_steps is None:
            eval_steps = EvalSteps(
                model, likelihood, sharding.create_mesh(), experiment.binarize_key(config)
            )
        num_devices = eval_steps.mesh.size
        self.batch_size = -(-(batch_size or config.eval.batch_size) // num_devices) * num_devices
        self._steps = eval_steps

    @property
    def image_shape(self) -> ImageShape:
        """Shape (H, W, C) of an image."""
        return self.model.image_shape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent: (D,) or (h, w, c)."""
        return self.model.latent_shape

    def encode(self, images: Array) -> DiagonalGaussian:
        """Computes q(z | x): its mean and log_std, float32 [N, *latent_shape]."""
        self._check_images(images)
        return self._map(
            lambda x, ids: self._steps.encode(self.params, x, ids), images, np.arange(len(images))
        )

    def decode(self, z: Array, key: jax.Array | None = None) -> np.ndarray:
        """Decodes latents [N, *latent_shape] into images [N, H, W, C].

        Without a key the images are the means of p(x | z); with a key they are draws from it.
        """
        z = self._check_latents(z)
        if key is None:
            return self._map(lambda z: self._steps.decode_mean(self.params, z), z)
        return self._map(
            lambda z, ids: self._steps.decode_sample(self.params, z, ids, key), z, np.arange(len(z))
        )

    def reconstruct(self, images: Array, key: jax.Array | None = None) -> np.ndarray:
        """Returns the mean of p(x | z) at z = E[z | x], or with a key at one draw z ~ q(z | x)."""
        posterior = self.encode(images)
        if key is None:
            return self.decode(posterior.mean)
        noise = jax.random.normal(key, posterior.mean.shape)
        return self.decode(posterior.reparameterise(noise))

    def sample(
        self, key: jax.Array, n: int, draw: bool = False, temperature: float = 1.0
    ) -> np.ndarray:
        """Generates n images at latents z ~ p(z).

        Args:
          key: random key.
          n: number of images.
          draw: return draws from p(x | z) instead of its means.
          temperature: factor on the standard deviations of the prior.
        """
        z_key, x_key = jax.random.split(key)
        return self.decode(self.sample_prior(z_key, n, temperature), x_key if draw else None)

    def sample_prior(self, key: jax.Array, n: int, temperature: float = 1.0) -> np.ndarray:
        """Draws n latents z ~ p(z), float32 [n, *latent_shape], in one batch.

        A temperature other than 1 scales the standard deviations of the prior, which makes it
        another model.
        """
        return sharding.fetch(self._steps.sample_prior(self.params, key, n, temperature))

    @property
    def has_noise_map(self) -> bool:
        """Whether the prior has `to_noise` and `from_noise`."""
        return self.model.bind({}).prior.has_noise_map

    def to_noise(self, z: Array) -> np.ndarray:
        """Maps latents to the noise from which `from_noise` makes them, in one batch.

        The map is one-to-one, and takes z ~ p(z) to N(0, I).

        Args:
          z: latents, float32 [N, *latent_shape].

        Returns:
          The noise, of the same shape.

        Raises:
          InputError: the prior has no such map.
        """
        self._require_noise_map()
        return sharding.fetch(self._steps.to_noise(self.params, self._check_latents(z)))

    def from_noise(self, noise: Array) -> np.ndarray:
        """Maps noise to latents: the inverse of `to_noise`."""
        self._require_noise_map()
        return sharding.fetch(self._steps.from_noise(self.params, self._check_latents(noise)))

    def _require_noise_map(self) -> None:
        if not self.has_noise_map:
            raise InputError(
                f"prior.name = {self.config.prior.name!r} has no map between latents and noise: "
                "use standard_normal, flow or diffusion."
            )

    @property
    def prior_is_exact(self) -> bool:
        """Whether log p(z) can be computed; if not, only a lower bound on it is estimated."""
        return self.model.bind({}).prior.is_exact

    def log_prior(self, z: Array, key: jax.Array) -> np.ndarray:
        """Computes log p(z) of latents [N, *latent_shape], nats, float32 [N].

        If the prior is not exact, it is an unbiased estimate of a lower bound, drawn with `key`.
        """
        return self._map(
            lambda z, ids: self._steps.log_prior(self.params, z, ids, key),
            self._check_latents(z),
            np.arange(len(z)),
        )

    def log_prob(self, images: Array, z: Array) -> np.ndarray:
        """Computes log p(x | z) of each image at its latent, nats, float32 [N].

        Args:
          images: images [N, H, W, C].
          z: latents [N, *latent_shape].
        """
        self._check_images(images)
        return self._map(
            lambda x, ids, z: self._steps.log_prob(self.params, x, ids, z),
            images,
            np.arange(len(images)),
            np.asarray(z, np.float32),
        )

    def elbo_terms(
        self, images: Array, key: jax.Array, progress: bool = False
    ) -> objectives.ElboTerms:
        """Estimates the terms of the bound of each image, nats, at one draw z ~ q(z | x).

        Args:
          images: images [N, H, W, C].
          key: random key of the draws. The draw for an image depends on the key and on the position
            of the image in `images`, but not on batches or devices.
          progress: whether to show a progress bar.
        """
        self._check_images(images)
        return self._map(
            lambda x, ids: self._steps.elbo_terms(self.params, x, ids, key),
            images,
            np.arange(len(images)),
            description="ELBO" if progress else None,
        )

    def elbo(self, images: Array, key: jax.Array) -> np.ndarray:
        """Estimates the evidence lower bound of each image, nats, float32 [N].

        The arguments are those of `elbo_terms`.
        """
        return np.asarray(self.elbo_terms(images, key).elbo)

    def iw_elbo(
        self, images: Array, key: jax.Array, num_samples: int = 100, progress: bool = False
    ) -> np.ndarray:
        """Estimates the importance-weighted bound of each image, nats, float32 [N].

        Args:
          images: images [N, H, W, C].
          key: random key of the draws.
          num_samples: draws z ~ q(z | x) per image.
          progress: whether to show a progress bar.

        Raises:
          InputError: the prior has no exact log p(z).
        """
        if not self.prior_is_exact:
            raise InputError(
                f"prior.name = {self.config.prior.name!r} has no exact log p(z), and with an "
                "estimate of it the importance-weighted bound would not be a bound: use the ELBO."
            )
        self._check_images(images)
        keys = [jax.random.fold_in(key, k) for k in range(num_samples)]

        def bound(x: jax.Array, ids: jax.Array) -> jax.Array:
            posterior = self._steps.encode(self.params, x, ids)
            log_weights = [self._steps.log_weights(self.params, posterior, x, ids, k) for k in keys]
            return objectives.compute_iw_elbo(jnp.stack(log_weights))

        return self._map(
            bound,
            images,
            np.arange(len(images)),
            description=f"importance-weighted bound, K = {num_samples}" if progress else None,
        )

    def _check_latents(self, z: Array) -> np.ndarray:
        """Returns `z` as a float32 NumPy array of latents, or raises an InputError."""
        z = np.asarray(z, np.float32)
        if z.shape[1:] != self.latent_shape or not len(z):
            raise InputError(
                f"z has shape {z.shape}: this model takes {_batched(self.latent_shape)} with N at "
                "least 1."
            )
        return z

    def _check_images(self, images: Array) -> None:
        if images.ndim != 4 or images.shape[1:] != tuple(self.image_shape) or not len(images):
            raise InputError(
                f"images have shape {images.shape}: this model takes "
                f"{_batched(self.image_shape)} with N at least 1."
            )
        if images.dtype != np.uint8 and not (np.min(images) >= 0 and np.max(images) <= 1):
            raise InputError(
                f"floating-point images lie in [{np.min(images)}, {np.max(images)}]: scale them to "
                "[0, 1], or pass uint8."
            )

    def _map(
        self, function: Callable[..., PyTree], *arrays: Array, description: str | None = None
    ) -> Any:
        """Applies `function` to padded batches, and joins the results without the padding.

        Args:
          function: jitted function of one batch of each array.
          *arrays: arrays with the same first axis.
          description: label of the progress bar; None: no progress bar.
        """
        n, size = len(arrays[0]), self.batch_size
        results = []
        for start in tqdm(
            range(0, n, size), desc=description, disable=None if description else True, leave=False
        ):
            batch = [a[start : start + size] for a in arrays]
            padding = size - len(batch[0])
            padded = [np.concatenate([b, np.repeat(b[-1:], padding, axis=0)]) for b in batch]
            inputs = [sharding.put(p.__getitem__, p.shape, self._steps.mesh) for p in padded]
            results.append(sharding.fetch(function(*inputs)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *results)


def _batched(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"


def load(
    workdir: str | pathlib.Path,
    checkpoint: str | int = "best",
    batch_size: int | None = None,
    use_ema: bool | None = None,
) -> TrainedVAE:
    """Loads the model of a training run.

    Args:
      workdir: directory of the run, written by train.py.
      checkpoint: 'best' (by validation ELBO), 'latest', or a step.
      batch_size: images per call over all devices; by default eval.batch_size of the run.
      use_ema: whether to use the averaged parameters instead of the raw ones; by default
        eval.use_ema of the run.

    Raises:
      NotFoundError: the directory has no run or no such checkpoint.
      InputError: the run was written by another version of this program.
      CheckpointsDamagedError: the checkpoint cannot be read.
    """
    workdir = pathlib.Path(workdir)
    config = configuration.load(workdir)
    use_ema = config.eval.use_ema if use_ema is None else use_ema
    image_shape = configuration.load_image_shape(workdir)
    model = experiment.create_model(config, image_shape)
    tx = experiment.create_optimizer(config)
    shapes = jax.eval_shape(
        lambda: state.create_train_state(
            model, tx, jax.random.key(config.seed), frozen_vae=bool(config.vae_workdir)
        )
    )
    everywhere = sharding.replicated(sharding.create_mesh())
    template = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), shapes
    )
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(template, checkpoint)
    return TrainedVAE(
        model,
        experiment.create_likelihood(config, image_shape[-1]),
        restored.ema_params if use_ema else restored.params,
        config,
        step=int(restored.step),
        batch_size=batch_size,
    )
