"""Samples, ranked by how far they are from the training images."""

import numpy as np

from vae_jax.gallery import measured
from vae_jax.gallery.ranking import Pair, Ranking, describe_image, labels_of
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import attributes as measures
from vae_jax.metrics import latents
from vae_jax.metrics.manifold import nearest_neighbours, realism
from vae_jax.metrics.metric import too_few_images
from vae_jax.runtime.memory import COMPARED, KEPT, num_in_memory
from vae_jax.streams import stream

NUM_SAMPLES = 1000  # candidates
NUM_REAL = 5000  # training images for comparison by pixels; up to 10,000 by features
NUM_NEIGHBOURS = 3  # a real image reaches to its 3rd neighbour, as for precision
MIN_NUM_REAL = NUM_NEIGHBOURS + 1


def missing(vae: TrainedVAE) -> list[str]:
    """Returns a sentence if there are too few training images to rank samples."""
    num_real = len(image_sets.real_split(vae, "train", MIN_NUM_REAL))
    if num_real >= MIN_NUM_REAL:
        return []
    return [too_few_images("`worst_samples`", MIN_NUM_REAL, "train", num_real)]


def rank_samples(vae: TrainedVAE, features: image_sets.Features | None) -> list[Ranking]:
    """Ranks samples by realism, in feature space if features are given, otherwise by pixels.

    Returns:
      One ranking, or an empty list if there are too few training images.
    """
    if missing(vae):
        return []
    num_samples, num_real = _num_images(vae, features)
    z, samples = image_sets.sample_means(vae, num_samples)
    split = image_sets.real_split(vae, "train", num_real)
    real = split.take(slice(None))
    if features is None:
        space, x, y = "pixels", _pixels(samples), _pixels(real)
    else:
        space, x, y = features.space, features.sample_means[:num_samples], features.train[:num_real]
    nearest, distances = nearest_neighbours(x, y, 1)
    reach = nearest_neighbours(y, y, NUM_NEIGHBOURS, exclude_self=True)[1][:, -1]
    labels, dataset = labels_of(split), vae.experiment.dataset.name

    def describe(row: int) -> dict[str, int | float | str]:
        about = describe_image(split, dataset, nearest[row, 0], "nearest image")
        return {"sample": int(row), **about, "distance": float(distances[row, 0])}

    def show(rows: np.ndarray) -> list[Pair]:
        return list(zip(samples[rows], real[nearest[rows, 0]], strict=True))

    ranking = Ranking(
        name="worst_samples",
        heading="Worst samples by realism",
        candidates="samples",
        sides=("sample", "nearest training image"),
        description="Left: the mean of p(x|z) at z ~ p(z). Right: the nearest of "
        f"{len(real):,} training images, measured on {space}. A sample with a realism of 1 or more "
        "(Kynkaanniemi et al. 2019, arXiv:1904.06991) is within the reach of a real image.",
        score="realism",
        unit="",
        values=realism(y, x, NUM_NEIGHBOURS),
        attributes=measured.sample_attributes(
            measured.measure_images(samples),
            float(measured.measure_images(real)["fine_power"].mean()),
            _prior_hole(vae, z, real),
            reach[nearest[:, 0]],
            None if labels is None else measures.blend(x, y, labels),
            dataset,
        ),
        describe=describe,
        show=show,
        is_low=True,
    )
    return [ranking]


def _num_images(vae: TrainedVAE, features: image_sets.Features | None) -> tuple[int, int]:
    """Returns the numbers of samples and of training images, which are smaller for large images."""
    numbers, bytes_per_value = (NUM_SAMPLES, NUM_REAL), COMPARED
    if features is not None:  # whose features are compared, not their pixels
        numbers = (min(NUM_SAMPLES, len(features.sample_means)), len(features.train))
        bytes_per_value = KEPT
    num_samples, num_real = (num_in_memory(vae.image_shape, n, bytes_per_value) for n in numbers)
    return num_samples, max(MIN_NUM_REAL, num_real)


def _pixels(images: np.ndarray) -> np.ndarray:
    """Flattens uint8 [N, H, W, C] to [N, H*W*C] in [0, 1]."""
    return images.reshape(len(images), -1) / 255.0


def _prior_hole(vae: TrainedVAE, z: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns log p(z) minus the log of the images' aggregate posterior at z, nats, [N]."""
    posterior = vae.encode(images)
    rows, means, log_stds = (
        np.asarray(a).reshape(len(a), -1) for a in (z, posterior.mean, posterior.log_std)
    )
    log_prior = vae.log_prior(z, stream("eval/log_prior", vae.experiment.evaluation.seed))
    return log_prior.astype(np.float64) - latents.aggregate_log_prob(rows, means, log_stds)
