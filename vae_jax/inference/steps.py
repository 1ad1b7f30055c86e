"""The jitted functions that evaluate a model."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vae_jax import objectives
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.objectives.losses import to_unit_interval
from vae_jax.runtime import sharding


def fold_in_each(key: jax.Array, image_ids: jax.Array) -> jax.Array:
    """One key per image, [B]: noise that depends on the image's id, not on its batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(image_ids)


class EvalSteps:
    """Jitted functions of (params, images, ...) for one model and likelihood, batch axis sharded.

    Every result for an image depends on that image, its id and the key alone. Where the likelihood
    asks for binary images, `binarize_key` and the id decide which one stands for a grey image, the
    same in all functions.
    """

    def __init__(self, model: VAE, likelihood: Likelihood, mesh: Mesh, binarize_key: jax.Array):
        self.mesh = mesh
        self._model = model
        self._likelihood = likelihood
        self._binarize_key = binarize_key
        everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh)

        def jit(function, *in_shardings):
            return jax.jit(function, in_shardings=in_shardings, out_shardings=batched)

        self.encode = jit(self._encode, everywhere, batched, batched)
        self.decode_mean = jit(self._decode_mean, everywhere, batched)
        self.decode_sample = jit(self._decode_sample, everywhere, batched, batched, everywhere)
        self.log_prob = jit(self._log_prob, everywhere, batched, batched, batched)
        self.log_prior = jit(self._log_prior, everywhere, batched, batched, everywhere)
        # Not sharded: the number of samples need be no multiple of that of the devices.
        self.sample_prior = self._sample_prior
        self.to_noise = functools.partial(self._apply, "latents_to_noise")
        self.from_noise = functools.partial(self._apply, "latents_from_noise")
        if not model.bind({}).prior.samples_in_steps:
            self.sample_prior = jax.jit(self._sample_prior, static_argnums=2)
            self.to_noise, self.from_noise = jax.jit(self.to_noise), jax.jit(self.from_noise)
        self.elbo_terms = jit(self._elbo_terms, everywhere, batched, batched, everywhere)
        self.log_weights = jit(self._log_weights, everywhere, batched, batched, batched, everywhere)

    def _observe(self, images, image_ids) -> jax.Array:
        """What the model is a model of: x in [0, 1], or binary draws from it."""
        x = to_unit_interval(images)
        if not self._likelihood.binarize:
            return x
        keys = fold_in_each(self._binarize_key, image_ids)
        return jax.vmap(jax.random.bernoulli)(keys, x).astype(jnp.float32)

    def _sample_posterior(self, posterior: DiagonalGaussian, image_ids, key) -> jax.Array:
        keys = fold_in_each(key, image_ids)
        noise = jax.vmap(lambda k: jax.random.normal(k, self._model.latent_shape))(keys)
        return posterior.reparameterise(noise)

    def _posterior(self, params, x) -> DiagonalGaussian:
        return self._model.apply({"params": params}, x, method="encode")

    def _encode(self, params, images, image_ids) -> DiagonalGaussian:
        """Images [B,H,W,C] -> q(z | x)."""
        return self._posterior(params, self._observe(images, image_ids))

    def _decode(self, params, z) -> jax.Array:
        return self._model.apply({"params": params}, z, method="decode")

    def _decode_mean(self, params, z) -> jax.Array:
        """Latents -> E[x | z], [B,H,W,C] in [0, 1]."""
        return self._likelihood.mean(self._decode(params, z))

    def _decode_sample(self, params, z, image_ids, key) -> jax.Array:
        """Latents -> x ~ p(x | z), [B,H,W,C] in [0, 1]."""
        outputs = self._decode(params, z)
        keys = fold_in_each(key, image_ids)
        return jax.vmap(lambda k, o: self._likelihood.sample(k, o[None])[0])(keys, outputs)

    def _log_prob(self, params, images, image_ids, z) -> jax.Array:
        """log p(x | z), [B]."""
        return self._likelihood.log_prob(self._decode(params, z), self._observe(images, image_ids))

    def _log_prior(self, params, z, image_ids, key) -> jax.Array:
        """log p(z), or an estimate of a lower bound on it, [B]."""
        keys = fold_in_each(jax.random.fold_in(key, 1), image_ids)
        return self._model.apply({"params": params}, z, keys, method="prior_log_prob")

    def _sample_prior(self, params, key, num_samples, temperature) -> jax.Array:
        """z ~ p(z), [num_samples, *latent_shape]."""
        return self._model.apply(
            {"params": params}, key, num_samples, temperature, method="sample_prior"
        )

    def _apply(self, method: str, params, values) -> jax.Array:
        """A method of the model that takes one array."""
        return self._model.apply({"params": params}, values, method=method)

    def _elbo_terms(self, params, images, image_ids, key) -> objectives.ElboTerms:
        """One-sample estimates of the terms of the bound, [B]."""
        x = self._observe(images, image_ids)
        posterior = self._posterior(params, x)
        z = self._sample_posterior(posterior, image_ids, key)
        return objectives.compute_elbo_terms(
            self._likelihood,
            posterior,
            z,
            self._log_prior(params, z, image_ids, key),
            self._decode(params, z),
            x,
        )

    def _log_weights(self, params, posterior, images, image_ids, key) -> jax.Array:
        """log p(x, z) - log q(z | x) at one z ~ q(z | x), [B]."""
        x = self._observe(images, image_ids)
        z = self._sample_posterior(posterior, image_ids, key)
        log_prior = self._log_prior(params, z, image_ids, key)
        outputs = self._decode(params, z)
        return objectives.compute_log_weights(self._likelihood, posterior, z, log_prior, outputs, x)
