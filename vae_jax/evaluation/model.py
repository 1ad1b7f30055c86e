"""The evaluations of a model: a short one during training, and the full one afterwards."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.evaluation.bounds import evaluate_bounds
from vae_jax.evaluation.codes import latent_metrics, reconstruction_metrics
from vae_jax.evaluation.grids import (
    NUM_COLUMNS,
    NUM_RECONSTRUCTIONS,
    NUM_SAMPLES,
    interpolations,
    interpolations_of_noise,
    nearest_neighbours_grid,
    num_rows,
    principal_directions,
    traversals,
)
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.metric import Metric, by_key, mean, too_few_images
from vae_jax.recording import figures
from vae_jax.recording.writers import Summary
from vae_jax.runtime.settings import standard_settings
from vae_jax.streams import stream

PairGrid = Callable[[TrainedVAE, DiagonalGaussian], np.ndarray]  # needs at least two posteriors


@standard_settings()
def validate(vae: TrainedVAE, split: Split) -> Summary:
    """Does the short evaluation during training, on the whole split and always with the same noise.

    Args:
      vae: the model.
      split: the validation split.

    Returns:
      The terms of the bound, reconstructions and samples as grids, and the rate of each dimension.
    """
    seed = vae.experiment.evaluation.seed
    images = split.shuffled()
    terms = vae.elbo_terms(images, stream("validation/elbo", seed))
    samples = vae.sample(stream("validation/samples", seed), _num_samples(vae))
    scalars = {
        "elbo": mean(np.asarray(terms.elbo)),
        "rate": mean(np.asarray(terms.rate)),
        "distortion": mean(np.asarray(terms.distortion)),
    }
    if vae.likelihood.is_discrete:
        scalars["bits_per_dim"] = objectives.bits_per_dim(scalars["elbo"], vae.image_shape)
    rates = [
        np.asarray(rate).mean(axis=0, dtype=np.float64).ravel()
        for rate in jax.tree.leaves(terms.rate_per_dim)
    ]
    return Summary(
        scalars=scalars,
        images={
            "reconstructions": _reconstructions(vae, images),
            "samples": figures.image_grid(samples, NUM_COLUMNS),
        },
        histograms={"rate_per_dim": np.concatenate(rates)},
    )


@standard_settings()
def evaluate(
    vae: TrainedVAE, split: Split
) -> tuple[dict[str, Metric], dict[str, np.ndarray], list[str]]:
    """Does the full evaluation, without the sample metrics.

    Args:
      vae: the model.
      split: the split to evaluate on.

    Returns:
      (metrics, grids, notes): the metrics by key, the grids of images by name, uint8 [H, W, 3], and
      sentences that say what is missing and why.
    """
    images = split.shuffled()
    posterior = vae.encode(images)
    metrics = evaluate_bounds(vae, split, images)
    grids, notes = _grids(vae, images, posterior), []
    for found, missing in (
        latent_metrics(vae, split, posterior),
        reconstruction_metrics(vae, split, images, posterior.mean),
    ):
        metrics |= by_key(found)
        notes += missing
    for name, draw in _pair_grids(vae).items():
        if len(split) >= 2:
            grids[name] = draw(vae, posterior)
        else:
            notes.append(too_few_images(f"`{name}`", 2, split.name, len(split)))
    return metrics, grids, notes


def _grids(
    vae: TrainedVAE, images: np.ndarray, posterior: DiagonalGaussian
) -> dict[str, np.ndarray]:
    """Draws the grids that one image is enough for."""
    plan = vae.experiment.evaluation
    key, num_samples = stream("eval/samples", plan.seed), _num_samples(vae)
    samples = vae.sample(key, num_samples)
    grids = {
        "reconstructions": _reconstructions(vae, images),
        "samples": figures.image_grid(samples, NUM_COLUMNS),
        "samples_drawn": figures.image_grid(vae.sample(key, num_samples, draw=True), NUM_COLUMNS),
        "nearest_neighbours": nearest_neighbours_grid(vae, samples[:NUM_RECONSTRUCTIONS]),
        "traversals": traversals(vae, posterior),
    }
    if plan.temperature != 1.0:
        tempered = vae.sample(key, num_samples, temperature=plan.temperature)
        grids["samples_tempered"] = figures.image_grid(tempered, NUM_COLUMNS)
    return grids


def _pair_grids(vae: TrainedVAE) -> dict[str, PairGrid]:
    """Returns the functions that draw the grids for which two images are needed."""
    functions: dict[str, PairGrid] = {
        "interpolations": interpolations,
        "principal_directions": principal_directions,
    }
    if vae.has_noise_map:
        functions["interpolations_of_noise"] = functools.partial(
            interpolations_of_noise, key=stream("eval/paths", vae.experiment.evaluation.seed)
        )
    return functions


def _reconstructions(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    """Draws a grid of the first images, each with its reconstruction below."""
    shown = images[: NUM_COLUMNS * num_rows(vae, NUM_RECONSTRUCTIONS // NUM_COLUMNS)]
    return figures.paired_grid(shown, vae.reconstruct(shown), NUM_COLUMNS)


def _num_samples(vae: TrainedVAE) -> int:
    """Returns the number of samples in a grid."""
    return NUM_COLUMNS * num_rows(vae, NUM_SAMPLES // NUM_COLUMNS)
