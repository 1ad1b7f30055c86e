"""Bounds on the log-likelihood of a split: the ELBO with its terms, the importance-weighted bound.

Each is given in nats per image and, if the likelihood is a mass function over the 256 grey levels,
in bits per dimension.
"""

import dataclasses

import jax
import numpy as np

from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.metric import Metric, by_key, mean, standard_error
from vae_jax.streams import stream
from vae_jax.typing import Array


def evaluate_bounds(
    vae: TrainedVAE, split: Split, images: np.ndarray | None = None
) -> dict[str, Metric]:
    """Computes the ELBO, its terms and, if the prior is exact, the importance-weighted bound.

    Args:
      vae: the model.
      split: the split that the metrics are attributed to.
      images: its images, as `split.shuffled()` returns them, if they are read already.
    """
    images = split.shuffled() if images is None else images
    seed = vae.experiment.evaluation.seed
    terms = vae.elbo_terms(images, stream("eval/elbo", seed), progress=True)
    elbo, iw_key = np.asarray(terms.elbo), stream("eval/iw_elbo", seed)
    return by_key(
        [*_elbo_metrics(vae, split, terms), *_iw_metrics(vae, split, images, elbo, iw_key)]
    )


def mean_metric(
    vae: TrainedVAE, split: Split, name: str, per_image: Array, unit: str, protocol: str
) -> Metric:
    """Returns the mean of one value per image as a metric, with its standard error."""
    values = np.asarray(per_image)
    return Metric(
        name=name,
        value=mean(values),
        unit=unit,
        image_set=split.name,
        num_images=len(values),
        seed=vae.experiment.evaluation.seed,
        checkpoint_step=vae.step,
        protocol=protocol,
        standard_error=standard_error(values),
    )


def _bits_per_dim_metric(vae: TrainedVAE, bound: Metric, name: str) -> list[Metric]:
    """Returns a bound in bits per dimension, under this name.

    The result is empty unless the likelihood is a mass function over the 256 grey levels.
    """
    if not vae.likelihood.is_discrete:
        return []
    value, error = objectives.bits_per_dim(bound.value, vae.image_shape), bound.standard_error
    if error is not None:
        error = -objectives.bits_per_dim(error, vae.image_shape)
    return [dataclasses.replace(bound, name=name, value=value, unit="bits", standard_error=error)]


def _elbo_metrics(vae: TrainedVAE, split: Split, terms: objectives.ElboTerms) -> list[Metric]:
    protocol = "one draw z ~ q(z|x) per image, weight of the rate 1"
    elbo = mean_metric(vae, split, "elbo", terms.elbo, "nats", protocol)
    return [
        elbo,
        mean_metric(vae, split, "rate", terms.rate, "nats", _rate_protocol(vae)),
        mean_metric(vae, split, "distortion", terms.distortion, "nats", protocol),
        *_bits_per_dim_metric(vae, elbo, "bits_per_dim"),
    ]


def _rate_protocol(vae: TrainedVAE) -> str:
    if vae.experiment.prior.splits_by_dimension:
        return "KL(q(z|x), p(z)) in closed form"
    prior = "log p(z)" if vae.prior_is_exact else "an estimate of a lower bound on log p(z)"
    return f"KL(q(z|x), N(0, I)) in closed form, plus log N(z; 0, I) minus {prior} at the draw"


def _iw_metrics(
    vae: TrainedVAE, split: Split, images: np.ndarray, elbo: np.ndarray, key: jax.Array
) -> list[Metric]:
    """Computes the importance-weighted bound.

    If eval.num_iw_images selects a part of the images, the metric is the ELBO of all images plus
    the mean gain over the ELBO on that part. Bounds differ between images by far more nats than
    gains do, so the mean bound of the part alone would have a much larger error.

    The result is empty if log p(z) is itself only bounded, because weights with an estimate of that
    bound do not give a bound.

    `images` are those of the split, as `split.shuffled()` returns them; `elbo` are their bounds in
    nats, [N].
    """
    if not vae.prior_is_exact:
        return []
    plan = vae.experiment.evaluation
    part = images[: plan.num_iw_images or None]
    gain = vae.iw_elbo(part, key, plan.num_iw_samples, progress=True) - elbo[: len(part)]
    standard_error = None
    if len(part) > 1 and np.isfinite(elbo).all() and np.isfinite(gain).all():
        # The variance of mean(elbo) + mean(gain), where the part is contained in the images.
        covariance = np.cov(elbo[: len(part)], gain)
        variance = np.var(elbo, ddof=1, dtype=np.float64) / len(elbo)
        variance += covariance[1, 1] / len(part) + 2.0 * covariance[0, 1] / len(elbo)
        standard_error = float(np.sqrt(max(variance, 0.0)))
    protocol = f"K = {plan.num_iw_samples} draws, log-mean-exp per image"
    if len(part) < len(images):
        protocol += f"; ELBO of all images plus the gain over it on a random {len(part):,}"
    iw_elbo = dataclasses.replace(
        mean_metric(vae, split, "iw_elbo", elbo, "nats", protocol),
        value=mean(elbo) + mean(gain),
        num_images=len(part),
        standard_error=standard_error,
    )
    return [iw_elbo, *_bits_per_dim_metric(vae, iw_elbo, "iw_bits_per_dim")]
