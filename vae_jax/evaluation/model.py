"""The evaluations of a model: a short one during training, and the full one afterwards."""

import jax
import numpy as np

from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.evaluation.bounds import evaluate_bounds
from vae_jax.evaluation.codes import latent_metrics, reconstruction_metrics
from vae_jax.evaluation.grids import (
    NUM_COLUMNS,
    NUM_RECONSTRUCTIONS,
    NUM_SAMPLES,
    interpolations,
    interpolations_of_noise,
    nearest_neighbours_grid,
    principal_directions,
    traversals,
)
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.metric import Metric, by_key, mean
from vae_jax.recording import figures
from vae_jax.recording.writers import Summary
from vae_jax.runtime.settings import standard_settings
from vae_jax.streams import stream


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
    samples = vae.sample(stream("validation/samples", seed), NUM_SAMPLES)
    scalars = {
        "elbo": mean(np.asarray(terms.elbo)),
        "rate": mean(np.asarray(terms.rate)),
        "distortion": mean(np.asarray(terms.distortion)),
    }
    if vae.likelihood.is_discrete:
        scalars["bits_per_dim"] = objectives.bits_per_dim(scalars["elbo"], vae.image_shape)
    shown = images[:NUM_RECONSTRUCTIONS]
    rates = [
        np.asarray(rate).mean(axis=0, dtype=np.float64).ravel()
        for rate in jax.tree.leaves(terms.rate_per_dim)
    ]
    return Summary(
        scalars=scalars,
        images={
            "reconstructions": figures.paired_grid(shown, vae.reconstruct(shown), NUM_COLUMNS),
            "samples": figures.image_grid(samples, NUM_COLUMNS),
        },
        histograms={"rate_per_dim": np.concatenate(rates)},
    )


@standard_settings()
def evaluate(vae: TrainedVAE, split: Split) -> tuple[dict[str, Metric], dict[str, np.ndarray]]:
    """Does the full evaluation, without the sample metrics.

    Args:
      vae: the model.
      split: the split to evaluate on.

    Returns:
      (metrics, grids): the metrics by key, and the grids of images by name, uint8 [H, W, 3].
    """
    plan = vae.experiment.evaluation
    sample_key = stream("eval/samples", plan.seed)
    images = split.shuffled()
    posterior = vae.encode(images)
    metrics = evaluate_bounds(vae, split, images) | by_key(
        [
            *latent_metrics(vae, split, posterior),
            *reconstruction_metrics(vae, split, images, posterior.mean),
        ]
    )
    shown = images[:NUM_RECONSTRUCTIONS]
    samples = vae.sample(sample_key, NUM_SAMPLES)
    drawn = vae.sample(sample_key, NUM_SAMPLES, draw=True)
    grids = {
        "reconstructions": figures.paired_grid(shown, vae.reconstruct(shown), NUM_COLUMNS),
        "samples": figures.image_grid(samples, NUM_COLUMNS),
        "samples_drawn": figures.image_grid(drawn, NUM_COLUMNS),
        "interpolations": interpolations(vae, images),
        "traversals": traversals(vae, images[0], posterior),
        "principal_directions": principal_directions(vae, posterior),
        "nearest_neighbours": nearest_neighbours_grid(vae, samples[:NUM_RECONSTRUCTIONS]),
    }
    if vae.has_noise_map:
        grids["interpolations_of_noise"] = interpolations_of_noise(
            vae, images, stream("eval/paths", plan.seed)
        )
    if plan.temperature != 1.0:
        tempered = vae.sample(sample_key, NUM_SAMPLES, temperature=plan.temperature)
        grids["samples_tempered"] = figures.image_grid(tempered, NUM_COLUMNS)
    return metrics, grids
