"""Fits every learned prior to latents in two dimensions, where a picture shows what each can do.

    python -m benchmarks.two_moons --output=docs/images/two_moons.png

The latents are two interleaved half circles with noise, stretched and shifted. Their density is
known, and only by chance can a prior do better on held-out latents. Takes two minutes.
"""

import argparse
import functools
import math
import pathlib
import time
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.special import logsumexp

from vae_jax.distributions import DiagonalGaussian
from vae_jax.priors import Prior, VAEParts, create_prior, start_from_data
from vae_jax.recording import figures

NOISE = 0.1  # standard deviation around half circles of radius 1
SCALE, SHIFT = np.array([3.0, 1.0]), np.array([5.0, -2.0])  # of the latents that a prior sees

NAMES = ("vamp", "mixture", "ex_post_mixture", "flow", "diffusion")
NUM_STEPS = {
    "vamp": 1000,
    "mixture": 1000,
    "ex_post_mixture": 0,  # fitted when it is set from the data
    "flow": 3000,
    "diffusion": 6000,
}
LEARNING_RATES = {"vamp": 1e-2, "mixture": 5e-3, "flow": 2e-3, "diffusion": 2e-3}
NUM_COMPONENTS = {"vamp": 100, "mixture": 20, "ex_post_mixture": 10}
BATCH_SIZE = 256
NUM_TRAIN, NUM_HELD_OUT, NUM_SHOWN = 10_000, 5_000, 2_000
POSTERIOR_STD = 0.15  # of the encoder for the VampPrior


def arcs(t: np.ndarray) -> np.ndarray:
    """Returns points of both half circles at angles t in [0, pi], scaled and shifted: [2, T, 2]."""
    upper = np.stack([np.cos(t), np.sin(t)], axis=-1)
    lower = np.stack([1.0 - np.cos(t), 0.5 - np.sin(t)], axis=-1)
    return SCALE * np.stack([upper, lower]) + SHIFT


def draw_moons(num_samples: int, seed: int) -> np.ndarray:
    """Draws latents, float32 [N, 2]: a random half circle, a random angle and noise."""
    rng = np.random.default_rng(seed)
    points = arcs(rng.uniform(0.0, math.pi, num_samples))
    chosen = points[rng.integers(2, size=num_samples), np.arange(num_samples)]
    noise = NOISE * SCALE * rng.normal(size=(num_samples, 2))
    return (chosen + noise).astype(np.float32)


def moons_log_prob(z: np.ndarray, num_nodes: int = 200) -> np.ndarray:
    """Returns log p of the moons in nats, [N]: Gauss-Legendre quadrature over the angle."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    points = arcs(0.5 * math.pi * (nodes + 1.0)).reshape(-1, 2)
    log_weights = np.tile(np.log(weights / 4.0), 2)  # weights sum to 2 on each of two arcs
    standardised = (z[:, None] - points) / (NOISE * SCALE)
    log_normal = -0.5 * (standardised**2).sum(axis=-1) - np.log(2 * math.pi * NOISE**2)
    return logsumexp(log_weights + log_normal, axis=1) - np.log(SCALE).sum()


class Gaussian:
    """The Gaussian with the mean and covariance of latents [N, 2]: the baseline of all priors."""

    def __init__(self, z: np.ndarray):
        self._mean = z.mean(axis=0, dtype=np.float64)
        self._cholesky = np.linalg.cholesky(np.cov(z.T))

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Returns log p(z) in nats, [N]."""
        whitened = np.linalg.solve(self._cholesky, (z - self._mean).T)
        log_det = np.log(np.diagonal(self._cholesky)).sum()
        return -0.5 * (whitened**2).sum(axis=0) - math.log(2.0 * math.pi) - log_det

    def draw(self, num_samples: int, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(num_samples, 2))
        return self._mean + noise @ self._cholesky.T


class Encoder(nn.Module):
    """Maps the two pixels of an image [B, 1, 2, 1] in [0, 1] to the range of the latents."""

    low: tuple[float, float]
    high: tuple[float, float]

    def __call__(self, images: jax.Array) -> DiagonalGaussian:
        low, high = jnp.array(self.low), jnp.array(self.high)
        mean = low + (high - low) * images.reshape(-1, 2)
        return DiagonalGaussian(mean, jnp.full_like(mean, math.log(POSTERIOR_STD)))


def fit(name: str, z: np.ndarray, num_steps: int, seed: int) -> tuple[Prior, dict]:
    """Fits the prior `name` to latents [N, 2] with Adam; returns (prior, parameters)."""
    low, high = z.min(axis=0), z.max(axis=0)
    images = np.round(255.0 * (z - low) / (high - low)).astype(np.uint8).reshape(-1, 1, 2, 1)
    encoder = Encoder(tuple(low.tolist()), tuple(high.tolist()))
    num_components = NUM_COMPONENTS.get(name, 1)
    parts = VAEParts((2,), images.shape[1:], encoder)
    prior = create_prior(name, parts, num_components=num_components)
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    init = jax.jit(functools.partial(prior.init, method="log_prob"))
    params = init(init_key, z[:1], jax.random.split(init_key, 1))["params"]
    params = start_from_data(name, params, images, z, seed)
    if not num_steps:
        return prior, params

    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATES.get(name, 1e-3), num_steps))

    def mean_loss(params, batch, key):
        return prior.apply({"params": params}, batch, key, method="loss")[0].mean()

    def step(state, key):
        params, opt_state = state
        rows_key, loss_key = jax.random.split(key)
        batch = train[jax.random.randint(rows_key, (BATCH_SIZE,), 0, len(train))]
        gradients = jax.grad(mean_loss)(params, batch, loss_key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    train, keys = jnp.asarray(z), jax.random.split(batch_key, num_steps)
    params = jax.tree.map(jnp.asarray, params)
    state = (params, optimizer.init(params))
    (params, _), _ = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    return prior, params


def log_prob(prior: Prior, params: dict, z: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns log p(z) or its bound, float64 [N]."""
    apply = jax.jit(functools.partial(prior.apply, method="log_prob"))
    return np.float64(apply({"params": params}, z, jax.random.split(key, len(z))))


def draw(prior: Prior, params: dict, num_samples: int, key: jax.Array) -> np.ndarray:
    """Returns samples, float32 [N, 2]."""

    def sample(params):
        return prior.apply({"params": params}, key, num_samples, method="sample")

    return np.asarray((sample if prior.samples_in_steps else jax.jit(sample))(params))


def save_panels(path: pathlib.Path, panels: Mapping[str, np.ndarray], num_columns: int = 4) -> None:
    """Writes a PNG with one scatter plot of points [N, 2] per title, all on the same scales."""
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(3.2 * num_columns, 2.6 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=False):
        axis.plot(*np.transpose(points), ".", markersize=2.5, alpha=0.5, markeredgewidth=0)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelbottom=True, labelleft=True)  # below it there may be no panel
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save_figure(path, figure)


def write_picture(path: pathlib.Path) -> None:
    """Fits all priors, draws their samples and prints their mean log-densities."""
    train, held_out = draw_moons(NUM_TRAIN, seed=0), draw_moons(NUM_HELD_OUT, seed=1)
    gaussian = Gaussian(train)
    panels = {}

    def add(label: str, log_probs: np.ndarray, samples: np.ndarray) -> None:
        error = log_probs.std() / math.sqrt(len(log_probs))
        print(f"{label}: {log_probs.mean():.3f} +- {error:.3f} nats", flush=True)
        panels[f"{label}: {log_probs.mean():.2f} nats"] = samples

    add("data, exact", moons_log_prob(held_out), held_out[:NUM_SHOWN])
    add("one Gaussian", gaussian.log_prob(held_out), gaussian.draw(NUM_SHOWN, seed=2))
    for name in NAMES:
        start = time.perf_counter()
        prior, params = fit(name, train, NUM_STEPS[name], seed=0)
        seconds = time.perf_counter() - start
        log_probs = log_prob(prior, params, held_out, jax.random.key(1))
        samples = draw(prior, params, NUM_SHOWN, jax.random.key(2))
        print(f"{name}: fitted in {seconds:.1f} s", flush=True)
        bound = "" if prior.is_exact else ", bound"
        add(f"{name}{bound}", log_probs, samples)
    save_panels(path, panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default="docs/images/two_moons.png")
    write_picture(parser.parse_args().output)


if __name__ == "__main__":
    main()
