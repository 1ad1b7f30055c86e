"""Metrics of the latents and of the reconstructions that a VAE makes from them."""

import numpy as np

from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.evaluation.bounds import mean_metric
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, reconstruction
from vae_jax.metrics.metric import Metric
from vae_jax.typing import Array

NUM_MUTUAL_INFORMATION_SAMPLES = 2000


def latent_metrics(vae: TrainedVAE, split: Split, posterior: DiagonalGaussian) -> list[Metric]:
    """Computes the active units and the mutual information between images and latents.

    Args:
      vae: the model.
      split: the split that the metrics are attributed to.
      posterior: q(z | x) of all its images, [N, *latent_shape].
    """
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
    return [
        Metric(
            name="active_units",
            value=latents.active_units(means),
            unit=f"of {num_dims}",
            num_images=len(split),
            protocol=f"variance of E[z|x] over the split at least {latents.ACTIVE_VARIANCE}",
            image_set=split.name,
            seed=seed,
            checkpoint_step=vae.step,
        ),
        mean_metric(vae, split, "mutual_information", information, "nats", limit),
    ]


def reconstruction_metrics(
    vae: TrainedVAE, split: Split, images: np.ndarray, codes: Array
) -> list[Metric]:
    """Computes `reconstruction.MEASURES` between images and their reconstructions.

    It works in blocks of `vae.batch_size` images, so that memory is bounded. Measures that need
    larger images are left out.

    Args:
      vae: the model.
      split: the split that the metrics are attributed to.
      images: its images, uint8 [N, H, W, C].
      codes: means of q(z | x) of these images, [N, *latent_shape].
    """
    side = min(vae.image_shape[:2])
    values: dict[reconstruction.Measure, list[Array]] = {
        measure: [] for measure in reconstruction.MEASURES if side >= measure.smallest_side
    }
    for start in range(0, len(images), vae.batch_size):
        block = slice(start, start + vae.batch_size)
        x = images[block].astype(np.float32) / 255.0
        y = vae.decode(codes[block])
        for measure, blocks in values.items():
            blocks.append(measure.function(x, y))
    protocol = "mean of p(x|z) at the posterior mean, data range 1, mean over images"
    return [
        mean_metric(vae, split, m.name, np.concatenate(blocks), m.unit, protocol)
        for m, blocks in values.items()
    ]
