"""Tests of benchmarks/torch_twin.py: with the same weights it computes the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import experiment, objectives, optim
from vae_jax.distributions import standard_normal_log_prob

torch = pytest.importorskip("torch", reason="the twin is written in torch")

from benchmarks import torch_twin  # noqa: E402
from configs import default  # noqa: E402

COMMON = {"model.num_blocks": (1, 1), "likelihood.num_mixtures": 2, "train.batch_size": 4}
VECTOR = {"model.latent_shape": (5,), "model.widths": (8, 16)}
GRID = {
    "model.latent_shape": (4, 4, 3),
    "model.widths": (8, 16),
    "model.attention_resolutions": (4,),
}
BINARY = {"likelihood.name": "bernoulli", "likelihood.binarize": True}
# name: (keys of the configuration, image shape)
CASES = {
    "vector, grey levels": ({**VECTOR, "model.patch_size": 2}, (16, 16, 1)),
    "vector, binary": ({**VECTOR, **BINARY, "model.patch_size": 4}, (16, 16, 1)),
    "grid, attention, colour": ({**GRID, "model.patch_size": 1}, (8, 8, 3)),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On two threads beside other tests, such small operations would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Both:
    """A linen model with random parameters (no zero kernels) and its twin with the same ones."""

    def __init__(self, keys: dict, image_shape: tuple[int, int, int]):
        self.config = default.get_config()
        self.config.update_from_flattened_dict({**COMMON, **keys})
        self.run = experiment.build(self.config, image_shape)
        self.model, self.likelihood = self.run.model, self.run.likelihood
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
        self.params = jax.tree.map(
            lambda p: jnp.asarray(rng.normal(0.0, 0.15, p.shape), jnp.float32), shapes["params"]
        )
        self.twin = torch_twin.Training(self.config, image_shape)
        torch_twin.copy_weights(self.params, self.twin.vae)
        levels = rng.integers(0, 256, (4, *image_shape))
        if self.likelihood.binarize:
            levels = 255 * (levels > 127)
        self.x = (levels / 255).astype(np.float32)
        self.noise = rng.normal(size=(4, *self.config.model.latent_shape)).astype(np.float32)

    def terms(self, params) -> tuple:
        """Returns (posterior, decoder outputs, distortion, rate) at the same noise, in JAX."""
        posterior = self.model.apply({"params": params}, self.x, method="encode")
        z = posterior.reparameterise(self.noise)
        outputs = self.model.apply({"params": params}, z, method="decode")
        terms = objectives.compute_elbo_terms(
            self.likelihood, posterior, z, standard_normal_log_prob(z), outputs, self.x
        )
        return posterior, outputs, terms.distortion, terms.rate


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.long] * (not n.startswith("grid"))) for n in CASES],
)
def both(request) -> Both:
    return Both(*CASES[request.param])


def close(ours, theirs, tolerance: float = 1e-4) -> None:
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=tolerance * np.abs(ours).max())


def test_both_have_equally_many_parameters(both):
    ours = sum(p.size for p in jax.tree.leaves(both.params))
    assert sum(p.numel() for p in both.twin.parameters) == ours


def test_forward_pass_and_bound(both):
    posterior, outputs, distortion, rate = both.terms(both.params)
    x, noise = torch.from_numpy(both.x), torch.from_numpy(both.noise)
    mean, log_std = both.twin.vae.encoder(x)
    close(posterior.mean, mean)
    close(posterior.log_std, log_std)
    close(outputs, both.twin.vae.decoder(mean + torch.exp(log_std) * noise))
    theirs = torch_twin.compute_elbo_terms(both.twin.vae, both.twin.likelihood, x, noise)
    close(distortion, theirs[0])
    close(rate, theirs[1])


def test_gradients(both):
    """Compares gradients of the loss with a KL weight, copied to the places of the linen model."""

    def loss(params):
        *_, distortion, rate = both.terms(params)
        return distortion.mean() + 0.7 * rate.mean()

    grads = jax.jit(jax.grad(loss))(both.params)
    distortion, rate = torch_twin.compute_elbo_terms(
        both.twin.vae, both.twin.likelihood, torch.from_numpy(both.x), torch.from_numpy(both.noise)
    )
    both.twin.optimizer.zero_grad()
    (distortion.mean() + 0.7 * rate.mean()).backward()
    expected = torch_twin.Training(both.config, both.model.image_shape)
    torch_twin.copy_weights(grads, expected.vae)
    for ours, theirs in zip(expected.parameters, both.twin.parameters, strict=True):
        close(ours.detach().numpy(), theirs.grad, tolerance=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_updates(name):
    """The same gradients move parameters and averages alike (rates, clipping, moments, EMA)."""
    keys, image_shape = CASES["vector, binary"]
    both = Both({**keys, "optim.name": name, "optim.warmup_steps": 2}, image_shape)
    rng = np.random.default_rng(1)
    tx = both.run.tx
    params = averages = both.params
    opt_state, gradient = tx.init(params), torch_twin.Training(both.config, image_shape)
    both.twin.averages = [p.detach().clone() for p in both.twin.parameters]
    for step, scale in enumerate([0.1, 30.0, 1.0]):  # the second one is clipped
        grads = jax.tree.map(
            lambda p, s=scale: jnp.asarray(rng.normal(0.0, s, p.shape), jnp.float32), params
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        averages = optim.update_ema(
            averages, params, jnp.asarray(step), both.config.optim.ema_decay
        )
        torch_twin.copy_weights(grads, gradient.vae)
        for theirs, ours in zip(both.twin.parameters, gradient.parameters, strict=True):
            theirs.grad = ours.detach().clone()
        both.twin.update()
    expected = torch_twin.Training(both.config, image_shape)
    for tree, theirs in ((params, both.twin.parameters), (averages, both.twin.averages)):
        torch_twin.copy_weights(tree, expected.vae)
        for a, b in zip(expected.parameters, theirs, strict=True):
            close(a.detach().numpy(), b, tolerance=1e-5)


def test_trains():
    """In whole steps in bfloat16, the loss starts near that of a uniform guess and falls."""
    keys, image_shape = CASES["grid, attention, colour"]
    keys = {**keys, "data.flip": True, "model.dtype": "bfloat16", "optim.warmup_steps": 0}
    both = Both(keys, image_shape)
    twin = torch_twin.Training(both.config, image_shape)
    images = torch.from_numpy(np.round(255 * both.x).astype(np.uint8))
    losses = [float(twin.step(images, torch.arange(4))) for _ in range(8)]
    uniform = 8 * 8 * 3 * np.log(256)
    assert losses[0] == pytest.approx(uniform, rel=0.3)
    assert losses[-1] < losses[0]


def test_no_twin_of_other_likelihoods():
    config = default.get_config()
    config.likelihood.name = "gaussian"
    with pytest.raises(ValueError, match="gaussian"):
        torch_twin.Training(config, (16, 16, 1))
