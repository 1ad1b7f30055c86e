"""Jitted functions that evaluate a model on a batch: encoding, decoding, sampling, bounds.

`TrainedVAE` calls them with batches of one size, so that each is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from vae_jax import objectives
from vae_jax.distributions import reparameterise, standard_normal_noise
from vae_jax.experiment import Experiment
from vae_jax.inference import memory
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.runtime import sharding
from vae_jax.runtime.settings import standard_settings
from vae_jax.streams import stream
from vae_jax.tasks import to_unit_interval
from vae_jax.typing import PyTree


def fold_in_each(key: jax.Array, image_ids: jax.Array) -> jax.Array:
    """Returns one key per image, [B], so that noise depends on the image and not on its batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(image_ids)


class EvalSteps:
    """Jitted functions of (params, images, ...) for one model and likelihood.

    The batch axis is divided among the devices of the mesh. The result for an image depends only on
    that image, its id and the key. If the likelihood models binary images, `binarize_key` and the
    id of a grey image determine its binary version, which is the same in all functions.

    Args:
      model: the VAE.
      likelihood: p(x | z).
      mesh: devices that share the batches.
      binarize_key: random key for binary images.
      max_batch_size: number of images in the largest batch that fits into memory; None: not known.
    """

    def __init__(
        self,
        model: VAE,
        likelihood: Likelihood,
        mesh: Mesh,
        binarize_key: jax.Array,
        max_batch_size: int | None = None,
    ) -> None:
        self.mesh = mesh
        self.max_batch_size = max_batch_size
        self._model = model
        self._likelihood = likelihood
        self._binarize_key = binarize_key
        everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh)

        def jit(function: Callable[..., Any], *in_shardings: NamedSharding) -> Callable[..., Any]:
            return jax.jit(function, in_shardings=in_shardings, out_shardings=batched)

        self.encode = jit(self._encode, everywhere, batched, batched)
        self.decode_mean = jit(self._decode_mean, everywhere, batched)
        self.decode_sample = jit(self._decode_sample, everywhere, batched, batched, everywhere)
        self.log_prob = jit(self._log_prob, everywhere, batched, batched, batched)
        self.log_prior = jit(self._log_prior, everywhere, batched, batched, everywhere)
        # Not sharded: the number of samples need not be a multiple of the number of devices.
        self.sample_prior: Callable[..., jax.Array] = functools.partial(self._apply, "sample_prior")
        self.to_noise: Callable[..., jax.Array] = functools.partial(self._apply, "latents_to_noise")
        self.from_noise: Callable[..., jax.Array] = functools.partial(
            self._apply, "latents_from_noise"
        )
        # A prior that samples in steps jits each step itself.
        if not model.bind({}).prior.samples_in_steps:
            self.sample_prior = jax.jit(self.sample_prior, static_argnums=2)
            self.to_noise, self.from_noise = jax.jit(self.to_noise), jax.jit(self.from_noise)
        self.elbo_terms = jit(self._elbo_terms, everywhere, batched, batched, everywhere)
        self.log_weights = jit(self._log_weights, everywhere, batched, batched, batched, everywhere)

    def _apply(self, method: str, params: PyTree, *arguments: Any) -> Any:
        return self._model.apply({"params": params}, *arguments, method=method)

    def _observe(self, images: jax.Array, image_ids: jax.Array) -> jax.Array:
        """Returns what the model observes: x in [0, 1], or binary draws with these means."""
        x = to_unit_interval(images)
        if not self._likelihood.binarize:
            return x
        keys = fold_in_each(self._binarize_key, image_ids)
        return jax.vmap(jax.random.bernoulli)(keys, x).astype(jnp.float32)

    def _sample_posterior(self, posterior: PyTree, image_ids: jax.Array, key: jax.Array) -> PyTree:
        keys = fold_in_each(key, image_ids)
        noise = jax.vmap(lambda k: standard_normal_noise(k, self._model.latents))(keys)
        return reparameterise(posterior, noise)

    def _encode(self, params: PyTree, images: jax.Array, image_ids: jax.Array) -> PyTree:
        """Encodes images [B, H, W, C] as q(z | x)."""
        return self._apply("encode", params, self._observe(images, image_ids))

    def _decode(self, params: PyTree, z: PyTree) -> jax.Array:
        return self._apply("decode", params, z)

    def _decode_mean(self, params: PyTree, z: PyTree) -> jax.Array:
        """Decodes latents as E[x | z], [B, H, W, C] in [0, 1]."""
        return self._likelihood.mean(self._decode(params, z))

    def _decode_sample(
        self, params: PyTree, z: PyTree, image_ids: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Draws x ~ p(x | z) at the latents z, [B, H, W, C] in [0, 1]."""
        outputs = self._decode(params, z)
        keys = fold_in_each(key, image_ids)
        return jax.vmap(lambda k, o: self._likelihood.sample(k, o[None])[0])(keys, outputs)

    def _log_prob(
        self, params: PyTree, images: jax.Array, z: PyTree, image_ids: jax.Array
    ) -> jax.Array:
        """Computes log p(x | z), [B]."""
        return self._likelihood.log_prob(self._decode(params, z), self._observe(images, image_ids))

    def _log_prior(
        self, params: PyTree, z: PyTree, image_ids: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Computes log p(z), or estimates a lower bound on it, [B]."""
        keys = fold_in_each(jax.random.fold_in(key, 1), image_ids)
        return self._apply("prior_log_prob", params, z, keys)

    def _elbo_terms(
        self, params: PyTree, images: jax.Array, image_ids: jax.Array, key: jax.Array
    ) -> objectives.ElboTerms:
        """Estimates the terms of the bound from one posterior sample per image, [B]."""
        x = self._observe(images, image_ids)
        posterior = self._apply("encode", params, x)
        z = self._sample_posterior(posterior, image_ids, key)
        return objectives.compute_elbo_terms(
            self._likelihood,
            posterior,
            z,
            self._log_prior(params, z, image_ids, key),
            self._decode(params, z),
            x,
        )

    def _log_weights(
        self,
        params: PyTree,
        posterior: PyTree,
        images: jax.Array,
        image_ids: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """Computes log p(x, z) - log q(z | x) at one z ~ q(z | x), [B]."""
        x = self._observe(images, image_ids)
        z = self._sample_posterior(posterior, image_ids, key)
        log_prior = self._log_prior(params, z, image_ids, key)
        outputs = self._decode(params, z)
        return objectives.compute_log_weights(self._likelihood, posterior, z, log_prior, outputs, x)


@standard_settings()
def create_steps(experiment: Experiment, mesh: Mesh | None = None) -> EvalSteps:
    """Returns the jitted functions of a model; without a mesh, on all devices of this process.

    Raises:
      InputError: there is not enough memory for one image on each device.
    """
    mesh = sharding.create_mesh() if mesh is None else mesh
    plan = experiment.evaluation
    return EvalSteps(
        experiment.model,
        experiment.likelihood,
        mesh,
        stream("eval/binary", plan.seed),
        memory.max_batch_size(experiment.model, plan.batch_size, mesh),
    )
