"""Metrics of the latents and of the reconstructions that a VAE makes from them."""

from collections.abc import Sequence

import numpy as np

from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.evaluation.bounds import mean_metric
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, reconstruction
from vae_jax.metrics.metric import Metric, too_few_images
from vae_jax.runtime.memory import MEASURED, num_in_memory
from vae_jax.typing import Array

NUM_MUTUAL_INFORMATION_SAMPLES = 2000


def latent_metrics(
    vae: TrainedVAE, split: Split, posterior: DiagonalGaussian
) -> tuple[list[Metric], list[str]]:
    """Computes the active units and the mutual information between images and latents.

    Both compare images, so they need at least 2.

    Args:
      vae: the model.
      split: the split that the metrics are attributed to.
      posterior: q(z | x) of all its images, [N, *latent_shape].

    Returns:
      The metrics, and sentences that say what is missing and why.
    """
    if len(split) < 2:
        names = ("active_units", "mutual_information")
        return [], [too_few_images(f"`{name}`", 2, split.name, len(split)) for name in names]
    means, log_stds = np.asarray(posterior.mean), np.asarray(posterior.log_std)
    seed = vae.experiment.evaluation.seed
    num_dims = int(np.prod(vae.latent_shape))
    information = latents.mutual_information(
        means, log_stds, NUM_MUTUAL_INFORMATION_SAMPLES, np.random.default_rng(seed)
    )
    limit = (
        f"against the aggregate posterior of {len(split):,} images, so at most "
        f"{np.log(len(split)):.2f}"
    )
    active_units = Metric(
        name="active_units",
        value=latents.active_units(means),
        unit=f"of {num_dims}",
        num_images=len(split),
        protocol=f"variance of E[z|x] over the split at least {latents.ACTIVE_VARIANCE}",
        image_set=split.name,
        seed=seed,
        checkpoint_step=vae.step,
    )
    return [
        active_units,
        mean_metric(vae, split, "mutual_information", information, "nats", limit),
    ], []


def reconstruction_metrics(
    vae: TrainedVAE, split: Split, images: np.ndarray, codes: Array
) -> tuple[list[Metric], list[str]]:
    """Computes `reconstruction.MEASURES` between images and their reconstructions.

    Args:
      vae: the model.
      split: the split that the metrics are attributed to.
      images: its images, uint8 [N, H, W, C].
      codes: means of q(z | x) of these images, [N, *latent_shape].

    Returns:
      The metrics, and sentences that say what is missing and why.
    """
    height, width, _ = vae.image_shape
    measures, notes = [], []
    for measure in reconstruction.MEASURES:
        side = measure.smallest_side
        if min(height, width) >= side:
            measures.append(measure)
        else:
            notes.append(
                f"Missing: `{measure.name}`: needs images of at least {side}x{side} pixels, these "
                f"are {height}x{width}."
            )
    protocol = "mean of p(x|z) at the posterior mean, data range 1, mean over images"
    metrics = []
    for measure, values in _measure(vae, measures, images, codes).items():
        num_infinite = np.isinf(values).sum()
        if num_infinite:
            notes.append(
                f"Missing: `{measure.name}`: it is infinite, because {num_infinite:,} of "
                f"{len(images):,} reconstructions equal their images."
            )
        else:
            metrics.append(mean_metric(vae, split, measure.name, values, measure.unit, protocol))
    return metrics, notes


def _measure(
    vae: TrainedVAE,
    measures: Sequence[reconstruction.Measure],
    images: np.ndarray,
    codes: Array,
) -> dict[reconstruction.Measure, np.ndarray]:
    """Returns the values of all pairs, [N], in blocks so that memory is bounded."""
    parts: dict[reconstruction.Measure, list[Array]] = {measure: [] for measure in measures}
    block_size = num_in_memory(vae.image_shape, vae.batch_size, MEASURED)
    for start in range(0, len(images), block_size):
        block = slice(start, start + block_size)
        x = images[block].astype(np.float32) / 255.0
        y = vae.decode(codes[block])
        for measure in measures:
            parts[measure].append(measure.function(x, y))
    return {measure: np.concatenate(values) for measure, values in parts.items()}
