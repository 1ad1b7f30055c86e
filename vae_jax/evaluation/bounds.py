"""The bounds of a trained VAE on a split."""

import dataclasses

import jax
import numpy as np

from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.metric import Metric, mean, standard_error


def shuffled_images(split: Split) -> np.ndarray:
    """All images in one fixed random order, so that the first of them stand for all."""
    return split.take(np.random.default_rng(0).permutation(len(split)))


def evaluate_bounds(vae: TrainedVAE, split: Split) -> dict[str, Metric]:
    """Of `evaluate` the metrics of the bounds alone."""
    elbo_key, iw_key, _ = jax.random.split(jax.random.key(vae.config.eval.seed), 3)
    return all_bounds(vae, split, shuffled_images(split), elbo_key, iw_key)


def all_bounds(
    vae: TrainedVAE, split: Split, images: np.ndarray, elbo_key: jax.Array, iw_key: jax.Array
) -> dict[str, Metric]:
    """The ELBO with its terms and, where the prior is exact, the importance-weighted bound."""
    terms = vae.elbo_terms(images, elbo_key, progress=True)
    of_elbo = _bound_metrics(vae, split, terms)
    return of_elbo | _iw_metrics(vae, split, images, terms.elbo, iw_key)


def mean_metric(
    vae: TrainedVAE, split: Split, values: np.ndarray, unit: str, protocol: str
) -> Metric:
    """The mean over images of per-image values."""
    return Metric(
        value=mean(values),
        unit=unit,
        split=split.name,
        num_images=len(values),
        seed=vae.config.eval.seed,
        checkpoint_step=vae.step,
        protocol=protocol,
        standard_error=standard_error(values),
    )


def _bits_per_dim_metric(vae: TrainedVAE, bound: Metric, name: str) -> dict[str, Metric]:
    """The bound in bits per dimension where the likelihood is a mass function over 256 levels."""
    if not vae.likelihood.is_discrete:
        return {}
    return {
        name: dataclasses.replace(
            bound,
            value=objectives.bits_per_dim(bound.value, vae.image_shape),
            unit="bits",
            standard_error=None
            if bound.standard_error is None
            else -objectives.bits_per_dim(bound.standard_error, vae.image_shape),
        )
    }


def _bound_metrics(vae: TrainedVAE, split: Split, terms: objectives.ElboTerms) -> dict[str, Metric]:
    protocol = "one draw z ~ q(z|x) per image, weight of the rate 1"
    elbo = mean_metric(vae, split, terms.elbo, "nats", protocol)
    return {
        "elbo": elbo,
        "rate": mean_metric(vae, split, terms.rate, "nats", _rate_protocol(vae)),
        "distortion": mean_metric(vae, split, terms.distortion, "nats", protocol),
        **_bits_per_dim_metric(vae, elbo, "bits_per_dim"),
    }


def _rate_protocol(vae: TrainedVAE) -> str:
    if vae.config.prior.name == "standard_normal":
        return "KL(q(z|x), p(z)) in closed form"
    prior = "log p(z)" if vae.prior_is_exact else "an estimate of a lower bound on log p(z)"
    return f"KL(q(z|x), N(0, I)) in closed form, plus log N(z; 0, I) minus {prior} at the draw"


def _iw_metrics(
    vae: TrainedVAE, split: Split, images: np.ndarray, elbo: np.ndarray, key: jax.Array
) -> dict[str, Metric]:
    """The importance-weighted bound, on part of the images if the configuration asks for that.

    Nothing where log p(z) is itself a bound: estimates of one would not make another.

    Then it is the ELBO of all images plus the mean gain over it on the part: images differ by far
    more nats than the gain does, so the mean of the part alone would say little.
    """
    if not vae.prior_is_exact:
        return {}
    c = vae.config.eval
    part = images[: c.num_iw_images or None]
    gain = vae.iw_elbo(part, key, c.num_iw_samples, progress=True) - elbo[: len(part)]
    standard_error = None
    if len(part) > 1:
        # Of mean(elbo) + mean(gain), the part being among the images.
        covariance = np.cov(elbo[: len(part)], gain)
        variance = np.var(elbo, ddof=1, dtype=np.float64) / len(elbo)
        variance += covariance[1, 1] / len(part) + 2.0 * covariance[0, 1] / len(elbo)
        standard_error = float(np.sqrt(max(variance, 0.0)))
    protocol = f"K = {c.num_iw_samples} draws, log-mean-exp per image"
    if len(part) < len(images):
        protocol += f"; ELBO of all images plus the gain over it on a random {len(part):,}"
    iw_elbo = dataclasses.replace(
        mean_metric(vae, split, elbo, "nats", protocol),
        value=mean(elbo) + mean(gain),
        num_images=len(part),
        standard_error=standard_error,
    )
    return {"iw_elbo": iw_elbo, **_bits_per_dim_metric(vae, iw_elbo, "iw_bits_per_dim")}
