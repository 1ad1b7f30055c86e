"""The metrics of an ablation: bound, reconstructions, and the kernel distance of samples."""

import logging
import pathlib

import numpy as np
from ml_collections import ConfigDict

from vae_jax import objectives
from vae_jax.evaluation.sample_quality import best_tap
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import inception_weights, latents, reconstruction, spectrum
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.metrics.kernel_distance import unbiased_mmd2
from vae_jax.metrics.metric import FID_TAP
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime.names import expand_user
from vae_jax.streams import stream

LOGGER = logging.getLogger(__name__)
FINE_CYCLES = 7  # cycles per image above which contrast counts as fine detail


def measure(vae: TrainedVAE, images: np.ndarray) -> dict[str, float]:
    """Computes the metrics of the bound and of the reconstructions of test images.

    Args:
      vae: the model.
      images: uint8 [N, H, W, C].

    Returns:
      The metrics by name; the names are keys of `ablation_table.COLUMNS`.
    """
    terms = vae.elbo_terms(images, stream("ablation/elbo", vae.experiment.evaluation.seed))
    means = np.asarray(vae.encode(images).mean)
    x, y = images.astype(np.float32) / 255.0, vae.decode(means)
    per_image = {
        "elbo": np.asarray(terms.elbo),
        "rate": np.asarray(terms.rate),
        "distortion": np.asarray(terms.distortion),
    }
    for m in reconstruction.MEASURES:
        if min(vae.image_shape[:2]) >= m.smallest_side:
            per_image[m.name] = np.asarray(m.function(x, y))
    metrics = {name: float(np.mean(v, dtype=np.float64)) for name, v in per_image.items()}
    if vae.likelihood.is_discrete:
        metrics["bits_per_dim"] = objectives.bits_per_dim(metrics["elbo"], vae.image_shape)
    metrics["active_units"] = latents.active_units(means)
    fine_x, fine_y = (spectrum.power_above(spectrum.radial_power(i), FINE_CYCLES) for i in (x, y))
    if fine_x.sum() > 0:
        metrics["fine_detail"] = float(fine_y.sum() / fine_x.sum())
    return metrics


class KernelDistance:
    """The distance of samples of the prior (means of p(x|z)) to real images, in Inception features.

    Args:
      extractor: Inception network with a single tap.
      images: real images, uint8 [N, H, W, C].
      name: name of these images, for the file in the cache.
      cache_dir: directory of cached features of real images.
    """

    def __init__(
        self, extractor: FeatureExtractor, images: np.ndarray, name: str, cache_dir: pathlib.Path
    ) -> None:
        self._extractor, (self._tap,) = extractor, extractor.taps
        self._real = reference_features(extractor, images, name, cache_dir).features[self._tap]
        self.name = "kid" if self._tap == FID_TAP else f"kid_{self._tap}"

    def __call__(self, vae: TrainedVAE, num_samples: int) -> float:
        """Estimates the distance without bias from `num_samples` samples.

        Because it is unbiased, the estimate of a small distance may be negative.
        """
        key = stream("ablation/samples", vae.experiment.evaluation.seed)
        samples = figures.to_uint8(vae.sample(key, num_samples))
        return unbiased_mmd2(self._real, self._extractor.features(samples)[self._tap])


def create_kernel_distance(
    base: ConfigDict, images: np.ndarray, weights_file: str | None
) -> KernelDistance | None:
    """Returns the distance, or None, with a warning, if there are no Inception weights for it.

    Args:
      base: configuration with the name and the directory of the dataset.
      images: test images, uint8 [N, H, W, C].
      weights_file: file of the weights; None: the file in the data directory, which is downloaded
        if it is missing.
    """
    data = base.data
    directory = expand_user(data.dir, "data.dir")
    try:
        weights = inception_weights.find_or_download(weights_file, directory)
        extractor = FeatureExtractor(weights, [best_tap(weights)])
    except inception_weights.WeightsUnavailableError as error:
        LOGGER.warning("No KID is computed in this workdir, now or later: %s", error)
        return None
    name, cache_dir = f"{pathlib.Path(data.name).name}-test", directory / "inception" / "reference"
    return KernelDistance(extractor, images, name, cache_dir)


def training_record(run_dir: pathlib.Path) -> dict[str, float | None]:
    """Reads skipped updates and gradient norms of the last record; None if not finite."""
    records = [r for r in read_metrics(run_dir) if "train/grad_norm" in r]
    names = ("skipped_updates", "grad_norm", "grad_norm_max") if records else ()
    values = {name: records[-1][f"train/{name}"] for name in names}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
