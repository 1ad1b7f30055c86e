"""The only jitted training and evaluation steps.

Images enter as uint8 and become float32 in [0, 1] on the device.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vae_jax import objectives, optim
from vae_jax.checkpoints.state import TrainState, trained_part
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import Likelihood
from vae_jax.models import VAE
from vae_jax.optim.schedules import Schedule
from vae_jax.runtime import sharding


def to_unit_interval(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [0, 1]; floating-point images pass as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image [B, H, W, C] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0], 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1, :], x)


def choose_flipped(key: jax.Array, posterior: DiagonalGaussian) -> DiagonalGaussian:
    """q(z | random_flip(key, x)) [B, *latent_shape] from q of x and of its mirror image, [B, 2, …].

    Where the second axis has length 1 there is nothing to choose.
    """
    num_images, num_variants = posterior.mean.shape[:2]
    flip = jax.random.bernoulli(key, shape=(num_images, 1, 1, 1)).reshape(-1)
    variant = jnp.where(flip, num_variants - 1, 0)
    return jax.tree.map(lambda a: a[jnp.arange(num_images), variant], posterior)


def _with_log_std(params, log_std: jax.Array, skip: jax.Array):
    """`params` with the likelihood's log_std replaced, unless this update is skipped."""
    new = jnp.where(skip, params["decoder"]["log_std"], log_std)
    return {**params, "decoder": {**params["decoder"], "log_std": new}}


@flax.struct.dataclass
class Batch:
    """All that a training step is a function of besides its parameters.

    Attributes:
      x: what the model sees, float32 [B, H, W, C] in [0, 1]; on a frozen VAE it may be q(z | x),
        computed before.
      noise: N(0, I) of the draws from the posterior, [B, *latent_shape].
      prior_key: of what the prior draws for its loss.
    """

    x: jax.Array | DiagonalGaussian
    noise: jax.Array
    prior_key: jax.Array


def prepare_batch(
    model: VAE,
    likelihood: Likelihood,
    flip: bool,
    x: jax.Array | DiagonalGaussian,
    key: jax.Array,
    step: jax.typing.ArrayLike,
) -> Batch:
    """The batch of a training step from its images x [B, H, W, C] in [0, 1].

    Or from their posteriors, as `choose_flipped` takes them.
    """
    flip_key, binarize_key, noise_key = jax.random.split(jax.random.fold_in(key, step), 3)
    if isinstance(x, DiagonalGaussian):
        x = choose_flipped(flip_key, x)
    elif flip:
        x = random_flip(flip_key, x)
    if likelihood.binarize:
        x = jax.random.bernoulli(binarize_key, x).astype(jnp.float32)
    noise = jax.random.normal(noise_key, (len(jax.tree.leaves(x)[0]), *model.latent_shape))
    return Batch(x, noise, jax.random.fold_in(noise_key, 1))


def split_batch(batch: Batch, num_parts: int) -> Batch:
    """Parts of equal size along a new first axis of each attribute.

    Part i has every num_parts-th image, so that each device keeps the images it has.
    """

    def split(array):
        return array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1)

    parts = jnp.arange(num_parts)
    prior_keys = jax.vmap(lambda i: jax.random.fold_in(batch.prior_key, i))(parts)
    return Batch(jax.tree.map(split, batch.x), split(batch.noise), prior_keys)


def _is_batch_optimal(likelihood: Likelihood) -> bool:
    return getattr(likelihood, "variance", None) == "batch_optimal"


def _draw_and_score(model: VAE, params, batch: Batch):
    """(posterior, z drawn from it, the prior's loss at z, log p(z)); the last two [B]."""
    posterior = batch.x
    if not isinstance(posterior, DiagonalGaussian):
        posterior = model.apply({"params": params}, batch.x, method="encode")
    z = posterior.reparameterise(batch.noise)
    return posterior, z, *model.apply({"params": params}, z, batch.prior_key, method="prior_loss")


def make_loss_fn(
    model: VAE, likelihood: Likelihood, free_bits: float = 0.0, distortion_weight: float = 1.0
) -> Callable:
    """Returns (params, batch, kl_weight) -> (loss, (metrics, log_std or None)).

    The metrics are the terms of the bound, means over the batch; log_std is that of a batch-optimal
    Gaussian.
    """

    def loss_fn(params, batch: Batch, kl_weight):
        x = batch.x
        posterior, z, _, log_prior = _draw_and_score(model, params, batch)
        outputs = model.apply({"params": params}, z, method="decode")
        log_std = None
        if _is_batch_optimal(likelihood):
            log_std = likelihood.batch_optimal_log_std(outputs, x)
            outputs = outputs.at[..., -1].set(log_std)
        terms = objectives.compute_elbo_terms(likelihood, posterior, z, log_prior, outputs, x)
        loss = objectives.compute_loss(terms, kl_weight, free_bits, distortion_weight)
        names = ("elbo", "rate", "distortion")
        return loss, ({name: getattr(terms, name).mean() for name in names}, log_std)

    return loss_fn


def make_prior_loss_fn(model: VAE) -> Callable:
    """Likewise, of the prior alone: nothing is decoded, and the rate is the only metric.

    Draws of q(z | x) are new in each step.
    """

    def loss_fn(params, batch: Batch, kl_weight):
        del kl_weight
        posterior, z, loss, log_prior = _draw_and_score(model, params, batch)
        rate = objectives.compute_rate(posterior, z, log_prior)
        return loss.mean(), ({"rate": rate.mean()}, None)

    return loss_fn


def make_gradient_fn(loss_fn: Callable, frozen_vae: bool, num_parts: int = 1) -> Callable:
    """Returns (params, batch, kl_weight) -> ((loss, (metrics, log_std or None)), gradients).

    With `num_parts` above 1 these are means over equal parts of the batch (gradient accumulation):
    the loss must then be a mean over images. A GPU holds one part at a time. On the CPU, where
    loops around convolutions are slow (see `jit_train_steps`), they are unrolled: nothing is saved.
    """

    def gradient_fn(params, batch: Batch, kl_weight):
        def loss_of_part(part):
            return loss_fn(_with_trained_part(params, part, frozen_vae), batch, kl_weight)

        part = trained_part(params, frozen_vae)
        return jax.value_and_grad(loss_of_part, has_aux=True)(part)

    def accumulated_gradient_fn(params, batch: Batch, kl_weight):
        def add(total, part: Batch):
            return jax.tree.map(jnp.add, total, gradient_fn(params, part, kl_weight)), None

        parts = split_batch(batch, num_parts)
        shapes = jax.eval_shape(gradient_fn, params, jax.tree.map(lambda p: p[0], parts), kl_weight)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, parts, unroll=jax.default_backend() == "cpu")
        return jax.tree.map(lambda t: t / num_parts, total)

    return gradient_fn if num_parts == 1 else accumulated_gradient_fn


def _with_trained_part(params, part, frozen_vae: bool):
    return {**params, "prior": part} if frozen_vae else part


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
    frozen_vae: bool = False,
    accumulation_steps: int = 1,
) -> Callable:
    """Returns (state, x [B,H,W,C] in [0,1], key) -> (state, metrics): one update, not jitted.

    With `frozen_vae` only the prior is trained, by `make_prior_loss_fn`, and x may be the images'
    posteriors as `choose_flipped` takes them. Gradients are accumulated over `accumulation_steps`
    parts of the batch.

    `key` is the run's train_key; the step folds its own number in, so that resuming needs no stored
    key.
    Metrics are float32 scalars: of this batch before the update, and of the update.
    """
    batch_optimal = _is_batch_optimal(likelihood)
    if frozen_vae:
        loss_fn = make_prior_loss_fn(model)
    else:
        loss_fn = make_loss_fn(model, likelihood, free_bits, distortion_weight)
    gradient_fn = make_gradient_fn(loss_fn, frozen_vae, accumulation_steps)

    def train_step(state: TrainState, x: jax.Array, key: jax.Array):
        batch = prepare_batch(model, likelihood, flip, x, key, state.step)
        kl_weight = kl_schedule(state.step)
        (loss, (of_bound, log_std)), grads = gradient_fn(state.params, batch, kl_weight)
        part = trained_part(state.params, frozen_vae)
        _, skipped_before = optim.num_skipped(state.opt_state)
        updates, opt_state = tx.update(grads, state.opt_state, part)
        params = optax.apply_updates(part, updates)
        skipped_in_a_row, skipped = optim.num_skipped(opt_state)
        if batch_optimal and not frozen_vae:
            params = _with_log_std(params, log_std, skip=skipped_in_a_row > 0)
        metrics = {
            "loss": loss,
            **of_bound,
            "kl_weight": kl_weight,
            "learning_rate": learning_rate(state.step - skipped_before),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "skipped_updates": skipped,
            "skipped_in_a_row": skipped_in_a_row,
        }
        ema_part = optim.update_ema(
            trained_part(state.ema_params, frozen_vae), params, state.step, ema_decay, ema_warmup
        )
        new_state = TrainState(
            step=state.step + 1,
            params=_with_trained_part(state.params, params, frozen_vae),
            opt_state=opt_state,
            ema_params=_with_trained_part(state.ema_params, ema_part, frozen_vae),
        )
        return new_state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    return train_step


def jit_train_steps(train_step: Callable, mesh: Mesh, steps_per_call: int) -> Callable:
    """Returns jitted (state, images, batches, key) -> (state, metrics [steps_per_call]).

    Step i of a call trains on images[batches[i]], where `images` (uint8 [N,H,W,C], or posteriors as
    `choose_flipped` takes them) is the training split resident on the devices and `batches` int32
    [steps_per_call, B]; or, where `images` is None, on batches[i] itself (uint8
    [steps_per_call,B,H,W,C]). The state is donated. One step per call is no `lax.scan`: on the CPU
    backend a convolution inside a scan runs many times slower (github.com/jax-ml/jax/issues/12868).
    """

    def one_step(images, key, state, batch):
        batch = batch if images is None else jax.tree.map(lambda a: a[batch], images)
        return train_step(state, jax.tree.map(to_unit_interval, batch), key)

    def train_steps(state, images, batches, key):
        step = functools.partial(one_step, images, key)
        if steps_per_call > 1:
            return jax.lax.scan(step, state, batches)
        state, metrics = step(state, batches[0])
        return state, jax.tree.map(lambda m: m[None], metrics)

    everywhere, batched = sharding.replicated(mesh), sharding.split_axis(mesh, axis=1)
    return jax.jit(
        train_steps,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, batched, everywhere),
        out_shardings=(everywhere, everywhere),
        compiler_options=sharding.compiler_options(mesh),
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
