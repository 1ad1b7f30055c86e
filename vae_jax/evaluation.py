"""The evaluation of a trained VAE: numbers with their protocol, and grids to look at."""

import dataclasses

import jax
import numpy as np

from vae_jax import config as configuration
from vae_jax import objectives
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import latents, manifold, reconstruction
from vae_jax.recording import figures
from vae_jax.recording.writers import Summary

NUM_COLUMNS = 10
NUM_RECONSTRUCTIONS = 40
NUM_INTERPOLATIONS = 8
NUM_SAMPLES = 100
NUM_NEIGHBOURS = 10_000  # training images that samples are compared with, at most
NUM_TRAVERSED_DIMS = 10
NUM_DIRECTIONS = 5  # principal ones of the aggregate posterior
NUM_MOVED = 2  # images that each is added to
TRAVERSAL = np.linspace(-3.0, 3.0, 11)
NUM_MUTUAL_INFORMATION_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number with all that is needed to compare it.

    Attributes:
      value: of the metric.
      unit: 'nats', 'bits', 'dB', or '' for a plain number.
      split: of the images.
      num_images: it was computed on.
      seed: of the evaluation's noise.
      checkpoint_step: of the evaluated parameters.
      protocol: in words, what a reader must know.
      standard_error: over the images, where it is a mean.
    """

    value: float
    unit: str
    split: str
    num_images: int
    seed: int
    checkpoint_step: int
    protocol: str
    standard_error: float | None = None


def _mean(values: np.ndarray) -> float:
    """Mean over images in float64: float32 sums of 10,000 values lose digits."""
    return float(np.mean(values, dtype=np.float64))


def _standard_error(values: np.ndarray) -> float | None:
    """Of the mean over images; None for a single one."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(len(values)))


def _shuffled_images(split: Split) -> np.ndarray:
    """All images in one fixed random order, so that the first of them stand for all."""
    return split.take(np.random.default_rng(0).permutation(len(split)))


def validate(vae: TrainedVAE, split: Split) -> Summary:
    """The short evaluation during training, on the whole split and with fixed noise."""
    key = jax.random.key(vae.config.eval.seed)
    elbo_key, sample_key = jax.random.split(key)
    images = _shuffled_images(split)
    terms = vae.elbo_terms(images, elbo_key)
    scalars = {
        "elbo": _mean(terms.elbo),
        "rate": _mean(terms.rate),
        "distortion": _mean(terms.distortion),
    }
    if vae.likelihood.is_discrete:
        scalars["bits_per_dim"] = objectives.bits_per_dim(scalars["elbo"], vae.image_shape)
    shown = images[:NUM_RECONSTRUCTIONS]
    return Summary(
        scalars=scalars,
        images={
            "reconstructions": figures.paired_grid(shown, vae.reconstruct(shown), NUM_COLUMNS),
            "samples": figures.image_grid(vae.sample(sample_key, NUM_SAMPLES), NUM_COLUMNS),
        },
        histograms={"rate_per_dim": terms.rate_per_dim.mean(axis=0, dtype=np.float64).ravel()},
    )


def evaluate(vae: TrainedVAE, split: Split) -> tuple[dict[str, Metric], dict[str, np.ndarray]]:
    """The full evaluation: (metrics by name, grids uint8 [H, W, 3] by name)."""
    elbo_key, iw_key, sample_key = jax.random.split(jax.random.key(vae.config.eval.seed), 3)
    line_key = jax.random.fold_in(sample_key, 1)
    images = _shuffled_images(split)
    posterior = vae.encode(images)
    metrics = (
        _bounds(vae, split, images, elbo_key, iw_key)
        | _latent_metrics(vae, split, posterior)
        | _reconstruction_metrics(vae, split, images, posterior.mean)
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
        grids["interpolations_of_noise"] = interpolations_of_noise(vae, images, line_key)
    temperature = vae.config.prior.temperature
    if temperature != 1.0:
        tempered = vae.sample(sample_key, NUM_SAMPLES, temperature=temperature)
        grids["samples_tempered"] = figures.image_grid(tempered, NUM_COLUMNS)
    return metrics, grids


def evaluate_bounds(vae: TrainedVAE, split: Split) -> dict[str, Metric]:
    """Of `evaluate` the metrics of the bounds alone."""
    elbo_key, iw_key, _ = jax.random.split(jax.random.key(vae.config.eval.seed), 3)
    return _bounds(vae, split, _shuffled_images(split), elbo_key, iw_key)


def _bounds(
    vae: TrainedVAE, split: Split, images: np.ndarray, elbo_key: jax.Array, iw_key: jax.Array
) -> dict[str, Metric]:
    terms = vae.elbo_terms(images, elbo_key, progress=True)
    of_elbo = _bound_metrics(vae, split, terms)
    return of_elbo | _iw_metrics(vae, split, images, terms.elbo, iw_key)


def interpolations(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    """Grid: each row decodes the straight line between the posterior means of two images."""
    ends = vae.encode(_ends(images)).mean
    t = _fractions(ends)
    lines = [(1.0 - t) * a + t * b for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(np.concatenate(lines)), NUM_COLUMNS)


def interpolations_of_noise(vae: TrainedVAE, images: np.ndarray, key: jax.Array) -> np.ndarray:
    """Grid: each row is a path between draws of the posteriors of two images that the prior knows.

    The draws are taken to the noise of which the prior makes them; points of the arc between the
    two noises are as likely as they are, which those of a straight line between codes are not.
    """
    posterior = vae.encode(_ends(images))
    ends = vae.to_noise(posterior.reparameterise(jax.random.normal(key, posterior.mean.shape)))
    t = _fractions(ends)
    arcs = [slerp(a, b, t) for a, b in zip(ends[0::2], ends[1::2], strict=True)]
    return figures.image_grid(vae.decode(vae.from_noise(np.concatenate(arcs))), NUM_COLUMNS)


def _ends(images: np.ndarray) -> np.ndarray:
    """The pairs of images between which rows of a grid lie, one after the other."""
    return images[: 2 * min(NUM_INTERPOLATIONS, len(images) // 2)]


def _fractions(ends: np.ndarray) -> np.ndarray:
    """From 0 to 1 along a new first axis, to be multiplied with one end."""
    return np.linspace(0.0, 1.0, NUM_COLUMNS).reshape(-1, *[1] * (ends.ndim - 1))


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Spherical linear interpolation (Shoemake 1985; of noise: White 2016, arXiv:1609.04468).

    Args:
      a, b: two vectors of any one shape, not opposite to each other.
      t: fractions of the way, [T, 1, ..., 1].

    Returns:
      [T, *shape]: their weights make N(0, I) of two independent draws from it, if the angle between
      these is a right one, which in many dimensions it nearly is.
    """
    cosine = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if angle < 1e-6:  # the same direction: 0 / 0 below
        return (1.0 - t) * a + t * b
    return (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nearest_neighbours_grid(vae: TrainedVAE, samples: np.ndarray) -> np.ndarray:
    """Grid: samples [N, H, W, C], and below each the nearest training image, by squared error.

    Where training mirrors images at random, mirror images are among these.
    """
    train = configuration.load_split(vae.config, "train")
    chosen = np.random.default_rng(0).permutation(len(train))[:NUM_NEIGHBOURS]
    images = train.take(chosen)
    if vae.config.data.flip:  # the model has seen these as well
        images = np.concatenate([images, images[:, :, ::-1]])
    rows = (figures.to_uint8(x).reshape(len(x), -1) for x in (samples, images))
    nearest, _ = manifold.nearest_neighbours(*rows, k=1)
    return figures.paired_grid(samples, images[nearest[:, 0]], NUM_COLUMNS)


def traversals(vae: TrainedVAE, image: np.ndarray, posterior: DiagonalGaussian) -> np.ndarray:
    """Grid: each row moves one latent dimension of one image's code from -3 to 3.

    Args:
      vae: the model.
      image: the one whose posterior mean is moved, [H, W, C].
      posterior: of the whole split; its dimensions of highest mean rate are shown, highest first.
    """
    rate = np.asarray(posterior.kl_to_standard_normal()).mean(axis=0, dtype=np.float64).reshape(-1)
    dims = np.argsort(-rate)[:NUM_TRAVERSED_DIMS]
    code = vae.encode(image[None]).mean.reshape(-1)
    rows = np.repeat(code[None], len(dims) * len(TRAVERSAL), axis=0)
    rows = rows.reshape(len(dims), len(TRAVERSAL), -1)
    for row, dim in zip(rows, dims, strict=True):
        row[:, dim] = TRAVERSAL
    return figures.image_grid(vae.decode(rows.reshape(-1, *vae.latent_shape)), len(TRAVERSAL))


def principal_directions(vae: TrainedVAE, posterior: DiagonalGaussian) -> np.ndarray:
    """Grid: directions found without labels, added to the codes of the same images.

    Along each principal direction of the aggregate posterior, that of the largest variance first,
    the posterior means of the first images are moved by -3 to 3 standard deviations, a row each.

    Args:
      vae: the model.
      posterior: of the whole split.
    """
    directions, stds = latents.principal_directions(
        posterior.mean, posterior.log_std, NUM_DIRECTIONS
    )
    t = TRAVERSAL.reshape(-1, *[1] * len(vae.latent_shape))
    rows = [
        code + t * std * direction
        for direction, std in zip(directions, stds, strict=True)
        for code in posterior.mean[:NUM_MOVED]
    ]
    return figures.image_grid(vae.decode(np.concatenate(rows)), len(TRAVERSAL))


def _metric(vae: TrainedVAE, split: Split, values: np.ndarray, unit: str, protocol: str) -> Metric:
    """The mean over images of per-image values."""
    return Metric(
        value=_mean(values),
        unit=unit,
        split=split.name,
        num_images=len(values),
        seed=vae.config.eval.seed,
        checkpoint_step=vae.step,
        protocol=protocol,
        standard_error=_standard_error(values),
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
    elbo = _metric(vae, split, terms.elbo, "nats", protocol)
    return {
        "elbo": elbo,
        "rate": _metric(vae, split, terms.rate, "nats", _rate_protocol(vae)),
        "distortion": _metric(vae, split, terms.distortion, "nats", protocol),
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
        _metric(vae, split, elbo, "nats", protocol),
        value=_mean(elbo) + _mean(gain),
        num_images=len(part),
        standard_error=standard_error,
    )
    return {"iw_elbo": iw_elbo, **_bits_per_dim_metric(vae, iw_elbo, "iw_bits_per_dim")}


def _latent_metrics(
    vae: TrainedVAE, split: Split, posterior: DiagonalGaussian
) -> dict[str, Metric]:
    common = {"split": split.name, "seed": vae.config.eval.seed, "checkpoint_step": vae.step}
    num_dims = int(np.prod(vae.latent_shape))
    num_samples = min(NUM_MUTUAL_INFORMATION_SAMPLES, len(split))
    information, standard_error = latents.mutual_information(
        posterior.mean, posterior.log_std, num_samples, np.random.default_rng(common["seed"])
    )
    return {
        "active_units": Metric(
            value=latents.active_units(posterior.mean),
            unit=f"of {num_dims}",
            num_images=len(split),
            protocol=f"variance of E[z|x] over the split at least {latents.ACTIVE_VARIANCE}",
            **common,
        ),
        "mutual_information": Metric(
            value=information,
            unit="nats",
            num_images=num_samples,
            protocol=f"against the aggregate posterior of {len(split):,} images, so at most "
            f"{np.log(len(split)):.2f}",
            standard_error=standard_error,
            **common,
        ),
    }


def _reconstruction_metrics(
    vae: TrainedVAE, split: Split, images: np.ndarray, codes: np.ndarray
) -> dict[str, Metric]:
    """PSNR and SSIM of the likelihood's mean at the posterior mean, in blocks of bounded memory."""
    functions = {"psnr": reconstruction.psnr}
    if min(vae.image_shape[:2]) >= reconstruction.SSIM_WINDOW:
        functions["ssim"] = reconstruction.ssim
    values: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for start in range(0, len(images), vae.batch_size):
        block = slice(start, start + vae.batch_size)
        x = images[block].astype(np.float32) / 255.0
        y = vae.decode(codes[block])
        for name, function in functions.items():
            values[name].append(function(x, y))
    protocol = "mean of p(x|z) at the posterior mean, data range 1, mean over images"
    return {
        name: _metric(vae, split, np.concatenate(v), "dB" if name == "psnr" else "", protocol)
        for name, v in values.items()
    }
