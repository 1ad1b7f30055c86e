"""A trained VAE in scripts and notebooks: `model = vae_jax.load("workdir/demo")`."""

import pathlib
from collections.abc import Callable

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


class TrainedVAE:
    """A VAE with its parameters. Arrays of any length go in and come out as NumPy.

    Images are uint8 [0, 255] or floating-point [0, 1], [N, H, W, C]; they come back as float32
    [0, 1]. A model of binary images sees draws from them, the same for the same position in the
    argument. Work is done in batches of `batch_size`, the last one padded, over the devices of the
    steps' mesh; results do not depend on either. Where that mesh spans processes, all of them must
    make the same calls.

    Attributes:
      model, likelihood, params: the parts; `params` as evaluated (EMA by default).
      config: of the run.
      step: of the checkpoint.
      batch_size: images per call over all devices, rounded up to a multiple of their number.
    """

    def __init__(
        self,
        model: VAE,
        likelihood: Likelihood,
        params,
        config: ConfigDict,
        step: int = 0,
        eval_steps: EvalSteps | None = None,
        batch_size: int | None = None,
    ):
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
    def image_shape(self) -> tuple[int, int, int]:
        return self.model.image_shape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.model.latent_shape

    def encode(self, images: np.ndarray) -> DiagonalGaussian:
        """q(z | x): mean and log_std, float32 [N, *latent_shape]."""
        self._check_images(images)
        return self._map(
            lambda x, ids: self._steps.encode(self.params, x, ids), images, np.arange(len(images))
        )

    def decode(self, z: np.ndarray, key: jax.Array | None = None) -> np.ndarray:
        """Images at z [N, *latent_shape]: the likelihood's mean, or with a key a draw from it."""
        z = self._check_latents(z)
        if key is None:
            return self._map(lambda z: self._steps.decode_mean(self.params, z), z)
        return self._map(
            lambda z, ids: self._steps.decode_sample(self.params, z, ids, key), z, np.arange(len(z))
        )

    def reconstruct(self, images: np.ndarray, key: jax.Array | None = None) -> np.ndarray:
        """The likelihood's mean at E[z | x], or with a key at one draw z ~ q(z | x)."""
        posterior = self.encode(images)
        if key is None:
            return self.decode(posterior.mean)
        noise = jax.random.normal(key, posterior.mean.shape)
        return self.decode(posterior.reparameterise(noise))

    def sample(
        self, key: jax.Array, n: int, draw: bool = False, temperature: float = 1.0
    ) -> np.ndarray:
        """n images at z ~ p(z): the likelihood's mean, or with `draw` a draw from it."""
        z_key, x_key = jax.random.split(key)
        return self.decode(self.sample_prior(z_key, n, temperature), x_key if draw else None)

    def sample_prior(self, key: jax.Array, n: int, temperature: float = 1.0) -> np.ndarray:
        """n latents z ~ p(z), float32 [n, *latent_shape], in one call.

        A temperature other than 1 scales the prior's standard deviations: it is another model.
        """
        return sharding.fetch(self._steps.sample_prior(self.params, key, n, temperature))

    @property
    def has_noise_map(self) -> bool:
        """Whether the prior has `to_noise` and `from_noise`."""
        return self.model.bind({}).prior.has_noise_map

    def to_noise(self, z: np.ndarray) -> np.ndarray:
        """Latents -> noise of which `from_noise` makes them, both float32 [N, *latent_shape].

        One-to-one, and N(0, I) where z ~ p(z). In one call.

        Raises:
          ValueError: the prior has no such map.
        """
        self._require_noise_map()
        return sharding.fetch(self._steps.to_noise(self.params, self._check_latents(z)))

    def from_noise(self, noise: np.ndarray) -> np.ndarray:
        """The inverse of `to_noise`."""
        self._require_noise_map()
        return sharding.fetch(self._steps.from_noise(self.params, self._check_latents(noise)))

    def _require_noise_map(self) -> None:
        if not self.has_noise_map:
            raise InputError(
                f"prior.name = {self.config.prior.name!r} has no map between latents and noise: "
                "standard_normal, flow and diffusion have."
            )

    @property
    def prior_is_exact(self) -> bool:
        """Whether log p(z) is known, or estimates of a lower bound on it only."""
        return self.model.bind({}).prior.is_exact

    def log_prior(self, z: np.ndarray, key: jax.Array) -> np.ndarray:
        """log p(z) of latents [N, *latent_shape], nats, float32 [N].

        Where the prior is not exact: an unbiased estimate, from `key`, of a lower bound on it.
        """
        return self._map(
            lambda z, ids: self._steps.log_prior(self.params, z, ids, key),
            self._check_latents(z),
            np.arange(len(z)),
        )

    def log_prob(self, images: np.ndarray, z: np.ndarray) -> np.ndarray:
        """log p(x | z) of each image at its latent [N, *latent_shape], nats, float32 [N]."""
        self._check_images(images)
        return self._map(
            lambda x, ids, z: self._steps.log_prob(self.params, x, ids, z),
            images,
            np.arange(len(images)),
            np.asarray(z, np.float32),
        )

    def elbo_terms(
        self, images: np.ndarray, key: jax.Array, progress: bool = False
    ) -> objectives.ElboTerms:
        """The terms of the bound of each image, nats, at one draw z ~ q(z | x).

        The draw depends on `key` and on the image's position in `images`, not on batches or
        devices.
        """
        self._check_images(images)
        return self._map(
            lambda x, ids: self._steps.elbo_terms(self.params, x, ids, key),
            images,
            np.arange(len(images)),
            description="ELBO" if progress else None,
        )

    def elbo(self, images: np.ndarray, key: jax.Array) -> np.ndarray:
        """Evidence lower bound of each image, nats, float32 [N]; see `elbo_terms`."""
        return self.elbo_terms(images, key).elbo

    def iw_elbo(
        self, images: np.ndarray, key: jax.Array, num_samples: int = 100, progress: bool = False
    ) -> np.ndarray:
        """Importance-weighted bound of each image from `num_samples` draws, nats, float32 [N].

        Raises:
          ValueError: log p(z) is itself only bounded.
        """
        if not self.prior_is_exact:
            raise InputError(
                f"prior.name = {self.config.prior.name!r} has no exact log p(z), and the "
                "importance-weighted bound with estimates of it would be none: use the ELBO."
            )
        self._check_images(images)
        keys = [jax.random.fold_in(key, k) for k in range(num_samples)]

        def bound(x, ids):
            posterior = self._steps.encode(self.params, x, ids)
            log_weights = [self._steps.log_weights(self.params, posterior, x, ids, k) for k in keys]
            return objectives.compute_iw_elbo(jnp.stack(log_weights))

        return self._map(
            bound,
            images,
            np.arange(len(images)),
            description=f"importance-weighted bound, K = {num_samples}" if progress else None,
        )

    def _check_latents(self, z: np.ndarray) -> np.ndarray:
        """`z` as float32."""
        z = np.asarray(z, np.float32)
        if z.shape[1:] != self.latent_shape or not len(z):
            raise InputError(
                f"z has shape {z.shape}: this model takes {_batched(self.latent_shape)} with N at "
                "least 1."
            )
        return z

    def _check_images(self, images: np.ndarray) -> None:
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

    def _map(self, function: Callable, *arrays: np.ndarray, description: str | None = None):
        """Applies `function` to padded batches and joins the results without the padding."""
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
    """Loads a run for use.

    Args:
      workdir: written by train.py.
      checkpoint: 'best' (by validation ELBO), 'latest', or a step.
      batch_size: images per call over all devices; by default the config's eval.batch_size.
      use_ema: the averaged parameters or the raw ones; by default as the config's eval.use_ema.

    Raises:
      FileNotFoundError: no run, or no such checkpoint there.
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
