"""The only jitted training and evaluation steps.

Images enter as uint8 and become float32 in [0, 1] on the device.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vae_jax import objectives, optim, sharding
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.schedules import Schedule
from vae_jax.state import TrainState


def to_unit_interval(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [0, 1]; floating-point images pass as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def _with_log_std(params, log_std: jax.Array, skip: jax.Array):
    """`params` with the likelihood's log_std replaced, unless this update is skipped."""
    new = jnp.where(skip, params["decoder"]["log_std"], log_std)
    return {**params, "decoder": {**params["decoder"], "log_std": new}}


def prepare_batch(
    likelihood: Likelihood, flip: bool, x: jax.Array, key: jax.Array, step: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """(what the model sees of x [B,H,W,C] at a training step, key of its posterior's noise)."""
    flip_key, binarize_key, noise_key = jax.random.split(jax.random.fold_in(key, step), 3)
    if flip:
        x = random_flip(flip_key, x)
    if likelihood.binarize:
        x = jax.random.bernoulli(binarize_key, x).astype(jnp.float32)
    return x, noise_key


def _is_batch_optimal(likelihood: Likelihood) -> bool:
    return getattr(likelihood, "variance", None) == "batch_optimal"


def make_loss_fn(
    model: VAE, likelihood: Likelihood, free_bits: float = 0.0, distortion_weight: float = 1.0
) -> Callable:
    """Returns (params, x, noise_key, kl_weight) -> (loss, (terms of the bound, log_std or None)).

    `x` is what `prepare_batch` returns; log_std is that of a batch-optimal Gaussian.
    """

    def loss_fn(params, x, noise_key, kl_weight):
        posterior = model.apply({"params": params}, x, method="encode")
        z = posterior.reparameterise(jax.random.normal(noise_key, posterior.mean.shape))
        outputs = model.apply({"params": params}, z, method="decode")
        log_std = None
        if _is_batch_optimal(likelihood):
            log_std = likelihood.batch_optimal_log_std(outputs, x)
            outputs = outputs.at[..., -1].set(log_std)
        terms = objectives.compute_elbo_terms(likelihood, posterior, outputs, x)
        loss = objectives.compute_loss(terms, kl_weight, free_bits, distortion_weight)
        return loss, (terms, log_std)

    return loss_fn


def make_train_step(
    model: VAE,
    likelihood: Likelihood,
    tx: optax.GradientTransformation,
    kl_schedule: Schedule,
    learning_rate: Schedule,
    free_bits: float = 0.0,
    distortion_weight: float = 1.0,
    ema_decay: float = 0.999,
    ema_warmup: bool = True,
    flip: bool = False,
) -> Callable:
    """Returns (state, x [B,H,W,C] in [0,1], key) -> (state, metrics): one update, not jitted.

    `key` is the run's train_key; the step folds its own number in, so that resuming needs no stored
    key.
    Metrics are float32 scalars: of this batch before the update, and of the update.
    """
    batch_optimal = _is_batch_optimal(likelihood)
    loss_fn = make_loss_fn(model, likelihood, free_bits, distortion_weight)

    def train_step(state: TrainState, x: jax.Array, key: jax.Array):
        x, noise_key = prepare_batch(likelihood, flip, x, key, state.step)
        kl_weight = kl_schedule(state.step)
        (loss, (terms, log_std)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, x, noise_key, kl_weight
        )
        _, skipped_before = optim.num_skipped(state.opt_state)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        skipped_in_a_row, skipped = optim.num_skipped(opt_state)
        if batch_optimal:
            params = _with_log_std(params, log_std, skip=skipped_in_a_row > 0)
        metrics = {
            "loss": loss,
            "elbo": terms.elbo.mean(),
            "rate": terms.rate.mean(),
            "distortion": terms.distortion.mean(),
            "kl_weight": kl_weight,
            "learning_rate": learning_rate(state.step - skipped_before),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "skipped_updates": skipped,
            "skipped_in_a_row": skipped_in_a_row,
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=optim.update_ema(
                state.ema_params, params, state.step, ema_decay, ema_warmup
            ),
        )
        return new_state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    return train_step


def jit_train_steps(train_step: Callable, mesh: Mesh, steps_per_call: int) -> Callable:
    """Returns jitted (state, images, indices [steps_per_call, B], key) -> (state, metrics [steps]).

    Step i of a call trains on images[indices[i]]: `images` (uint8 [N,H,W,C]) is the whole training
    split resident on the device, or just the images of this call. The state is donated. One step
    per call is no `lax.scan`: on the CPU backend a convolution inside a scan runs many times slower
    (github.com/jax-ml/jax/issues/12868).
    """

    def one_step(images, key, state, batch_indices):
        return train_step(state, to_unit_interval(images[batch_indices]), key)

    def train_steps(state, images, indices, key):
        step = functools.partial(one_step, images, key)
        if steps_per_call > 1:
            return jax.lax.scan(step, state, indices)
        state, metrics = step(state, indices[0])
        return state, jax.tree.map(lambda m: m[None], metrics)

    everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh, axis=1)
    return jax.jit(
        train_steps,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, batched, everywhere),
        out_shardings=(everywhere, everywhere),
    )


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

    def _elbo_terms(self, params, images, image_ids, key) -> objectives.ElboTerms:
        """One-sample estimates of the terms of the bound, [B]."""
        x = self._observe(images, image_ids)
        posterior = self._posterior(params, x)
        outputs = self._decode(params, self._sample_posterior(posterior, image_ids, key))
        return objectives.compute_elbo_terms(self._likelihood, posterior, outputs, x)

    def _log_weights(self, params, posterior, images, image_ids, key) -> jax.Array:
        """log p(x, z) - log q(z | x) at one z ~ q(z | x), [B]."""
        x = self._observe(images, image_ids)
        z = self._sample_posterior(posterior, image_ids, key)
        outputs = self._decode(params, z)
        return objectives.compute_log_weights(self._likelihood, posterior, z, outputs, x)
