"""A trained VAE for scripts and notebooks.

It encodes and decodes images, draws samples, and computes bounds on their likelihood.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vae_jax import objectives
from vae_jax.checkpoints.state import TrainState
from vae_jax.distributions import DiagonalGaussian, posterior_mean, sample_posterior
from vae_jax.errors import InputError
from vae_jax.experiment import Experiment
from vae_jax.inference import arguments
from vae_jax.inference.steps import EvalSteps, create_steps
from vae_jax.runtime import sharding
from vae_jax.runtime.settings import standard_settings
from vae_jax.typing import Array, PyTree


class TrainedVAE:
    """A VAE with its parameters. Its methods take any number of images and return NumPy arrays.

    Images are [N, H, W, C], uint8 in [0, 255], or floating-point or boolean in [0, 1]; returned
    images are float32 in [0, 1]. Latents are finite real numbers. A key is a single random key,
    such as `jax.random.key(0)`. Other arguments raise an InputError.

    A model of binary images sees binary draws from the given ones; the draw for an image depends on
    its position in the argument. The methods work in batches of `batch_size`, of which the last is
    padded, on the devices of one mesh; results depend on neither. Of JAX's settings they depend on
    the precision of matrix products alone. If the mesh spans several processes, all of them must
    make the same calls.

    Attributes:
      experiment: what the model was built from.
      params: the evaluated parameters, by default the averaged ones (EMA).
      raw: the same model with the raw parameters; None if these are the evaluated ones.
      step: training step of the checkpoint.
      batch_size: images per call over all devices, rounded up to a multiple of their number; fewer
        if so many would not fit into memory.
      model: the network.
      likelihood: p(x | z).
      image_shape: shape (H, W, C) of an image.
      latent_shape: shape of a latent: (D,) or (h, w, c).
      has_noise_map: whether the prior has `to_noise` and `from_noise`.
      prior_is_exact: whether log p(z) can be computed; if not, only a lower bound on it is
        estimated.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: PyTree,
        step: int = 0,
        steps: EvalSteps | None = None,
        raw_params: PyTree = None,
    ) -> None:
        self.experiment, self.params, self.step = experiment, params, step
        self.model, self.likelihood = experiment.model, experiment.likelihood
        self.image_shape, self.latent_shape = self.model.image_shape, self.model.latent_shape
        prior = experiment.prior
        self.has_noise_map, self.prior_is_exact = prior.has_noise_map, prior.is_exact
        self._steps = create_steps(experiment) if steps is None else steps
        num_devices = self._steps.mesh.size
        size = -(-experiment.evaluation.batch_size // num_devices) * num_devices
        self.batch_size = min(size, self._steps.max_batch_size or size)
        self.raw = None
        if raw_params is not None:
            self.raw = TrainedVAE(experiment, raw_params, step, self._steps)

    @classmethod
    def from_state(
        cls, experiment: Experiment, state: TrainState, steps: EvalSteps | None = None
    ) -> "TrainedVAE":
        """Returns the model of a training state, with the parameters that eval.use_ema names."""
        step = int(state.step)
        if not experiment.evaluation.use_ema:
            return cls(experiment, state.params, step, steps)
        return cls(experiment, state.ema_params, step, steps, raw_params=state.params)

    @standard_settings()
    def encode(self, images: Array) -> DiagonalGaussian:
        """Computes q(z | x): its mean and log_std, float32 [N, *latent_shape]."""
        return self._map(self._steps.encode, self._images(images))

    @standard_settings()
    def decode(self, z: Array, key: jax.Array | None = None) -> np.ndarray:
        """Decodes latents [N, *latent_shape] into images [N, H, W, C].

        Without a key the images are the means of p(x | z); with a key they are draws from it.
        """
        return self._decode(self._latents(z), key)

    def _decode(self, z: PyTree, key: jax.Array | None) -> np.ndarray:
        """Decodes latents that the model computed: if these are NaN, so are the images."""
        z = jax.tree.map(np.asarray, z)
        if key is None:
            return self._map(lambda params, z, _: self._steps.decode_mean(params, z), z)
        key = arguments.key(key)
        return self._map(lambda *batch: self._steps.decode_sample(*batch, key), z)

    @standard_settings()
    def reconstruct(self, images: Array, key: jax.Array | None = None) -> np.ndarray:
        """Returns the mean of p(x | z) at z = E[z | x], or with a key at one draw z ~ q(z | x)."""
        key = None if key is None else arguments.key(key)
        posterior = self.encode(images)
        z = posterior_mean(posterior) if key is None else sample_posterior(posterior, key)
        return self._decode(z, None)

    @standard_settings()
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
        draw = arguments.flag("draw", draw)
        z_key, x_key = jax.random.split(arguments.key(key))
        return self._decode(self.sample_prior(z_key, n, temperature), x_key if draw else None)

    @standard_settings()
    def sample_prior(self, key: jax.Array, n: int, temperature: float = 1.0) -> np.ndarray:
        """Draws n latents z ~ p(z), float32 [n, *latent_shape], in one batch.

        A temperature other than 1 scales the standard deviations of the prior, which makes it
        another model.
        """
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.model.latents))
        n = arguments.count("n", n, maximum=arguments.MAX_VALUES // size)
        key, temperature = arguments.key(key), arguments.temperature(temperature)
        return sharding.fetch(self._steps.sample_prior(self.params, key, n, temperature))

    @standard_settings()
    def to_noise(self, z: Array) -> np.ndarray:
        """Maps latents to the noise from which `from_noise` makes them, in one batch.

        Both are float32 [N, *latent_shape]. The map is one-to-one, and takes z ~ p(z) to N(0, I).

        Raises:
          InputError: the prior has no such map.
        """
        self._require_noise_map()
        return sharding.fetch(self._steps.to_noise(self.params, self._latents(z)))

    @standard_settings()
    def from_noise(self, noise: Array) -> np.ndarray:
        """Maps noise to latents: the inverse of `to_noise`."""
        self._require_noise_map()
        noise = self._latents(noise, "noise")
        return sharding.fetch(self._steps.from_noise(self.params, noise))

    def _require_noise_map(self) -> None:
        if not self.has_noise_map:
            name = self.experiment.config["prior.name"]
            raise InputError(
                f"prior.name = {name!r} has no map between latents and noise: use standard_normal, "
                "flow or diffusion."
            )

    @standard_settings()
    def log_prior(self, z: Array, key: jax.Array) -> np.ndarray:
        """Computes log p(z) of latents [N, *latent_shape], nats, float32 [N].

        If the prior is not exact, it is an unbiased estimate of a lower bound, drawn with `key`.
        """
        key = arguments.key(key)
        return self._map(lambda *batch: self._steps.log_prior(*batch, key), self._latents(z))

    @standard_settings()
    def log_prob(self, images: Array, z: Array) -> np.ndarray:
        """Computes log p(x | z) of each image at its latent, nats, float32 [N].

        The latents are [N, *latent_shape].
        """
        images, z = self._images(images), self._latents(z)
        arguments.same_length("images", images, "z", z)
        return self._map(self._steps.log_prob, images, z)

    @standard_settings()
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
        key = arguments.key(key)
        return self._map(
            lambda *batch: self._steps.elbo_terms(*batch, key),
            self._images(images),
            description="ELBO" if arguments.flag("progress", progress) else None,
        )

    @standard_settings()
    def elbo(self, images: Array, key: jax.Array) -> np.ndarray:
        """Estimates the evidence lower bound of each image, nats, float32 [N].

        The arguments are those of `elbo_terms`.
        """
        return np.asarray(self.elbo_terms(images, key).elbo)

    @standard_settings()
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
            name = self.experiment.config["prior.name"]
            raise InputError(
                f"prior.name = {name!r} has no exact log p(z), and with an estimate of it the "
                "importance-weighted bound would not be a bound: use the ELBO."
            )
        images, key = self._images(images), arguments.key(key)
        num_samples = arguments.count("num_samples", num_samples, maximum=arguments.MAX_DRAWS)
        progress = arguments.flag("progress", progress)
        keys = [jax.random.fold_in(key, k) for k in range(num_samples)]

        def bound(params: PyTree, x: jax.Array, ids: jax.Array) -> jax.Array:
            posterior = self._steps.encode(params, x, ids)
            log_weights = [self._steps.log_weights(params, posterior, x, ids, k) for k in keys]
            return objectives.compute_iw_elbo(jnp.stack(log_weights))

        return self._map(
            bound,
            images,
            description=f"importance-weighted bound, K = {num_samples}" if progress else None,
        )

    def _images(self, images: Array) -> np.ndarray:
        return arguments.images(images, self.image_shape)

    def _latents(self, z: PyTree, name: str = "z") -> PyTree:
        return arguments.latents(z, self.model.latents, name)

    def _map(
        self, function: Callable[..., PyTree], *arrays: PyTree, description: str | None = None
    ) -> Any:
        """Applies `function` to padded batches, and joins the results without the padding.

        Args:
          function: jitted function of the parameters, one batch of each of the `arrays`, and the
            number of each row, int [B].
          *arrays: arrays with the same first axis, or trees of such arrays.
          description: label of the progress bar; None: no progress bar.
        """
        n = len(jax.tree.leaves(arrays)[0])
        size = self._padded_size(n)
        arrays = (*arrays, np.arange(n))
        results = []
        for start in tqdm(
            range(0, n, size), desc=description, disable=None if description else True, leave=False
        ):
            rows, padding = slice(start, start + size), max(0, start + size - n)

            def put(array: Array, rows: slice = rows, padding: int = padding) -> jax.Array:
                batch = array[rows]
                padded = np.concatenate([batch, np.repeat(batch[-1:], padding, axis=0)])
                return sharding.put(padded.__getitem__, padded.shape, self._steps.mesh)

            results.append(sharding.fetch(function(self.params, *jax.tree.map(put, arrays))))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *results)

    def _padded_size(self, n: int) -> int:
        """Returns the size of the batches for n images: a full batch, or a quarter, a 16th, ...

        The few sizes keep the number of compilations small.
        """
        size, num_devices = self.batch_size, self._steps.mesh.size
        while (smaller := -(-size // (4 * num_devices)) * num_devices) >= n and smaller < size:
            size = smaller
        return size
