"""How good samples are: Inception-feature distances to real images, and where the loss arises.

Every number is of two sets of images and is called so: `samples_vs_test/fid_768`. Metrics on the
2048 features that FID is defined on have the plain names; others carry their tap, and `clean_`
tells clean-fid's preprocessing from pytorch-fid's.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from vae_jax import config as configuration
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.evaluation import Metric
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import NUM_KEPT, PREPROCESSING, FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import frechet_distance
from vae_jax.metrics.inception_score import inception_score
from vae_jax.metrics.kernel_distance import kernel_distance
from vae_jax.metrics.manifold import manifold_metrics
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures

LOGGER = logging.getLogger(__name__)

NUM_SAMPLES = 50_000  # against train
NUM_SAMPLES_TEST = NUM_KEPT  # 10,000, against test
MIN_NUM_SAMPLES = 10  # for the splits of the Inception score and the fifth neighbour
BLOCK_SIZE = 500  # images that are decoded at a time
NUM_SHOWN, NUM_COLUMNS = 100, 10
FID_TAP = 2048  # what FID, and every metric without a number in its name, is defined on
TAPS = (FID_TAP, 768)  # 768: what can be had of weights without the last blocks
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NUM_SPLITS = 10  # of the Inception score

# The sets of images by name. Those that the model makes are there twice: drawn from p(x|z) and as
# its mean, which is no draw from the model, but what most papers show.
SETS = {
    "samples": "x ~ p(x|z), z ~ p(z)",
    "sample_means": "mean of p(x|z), z ~ p(z)",
    "tempered_samples": "x ~ p(x|z), z ~ p(z) at prior.temperature: another model",
    "tempered_sample_means": "mean of p(x|z), z ~ p(z) at prior.temperature: another model",
    "aggregate_posterior_samples": "x ~ p(x|z), z ~ q(z|x') of random training images x'",
    "aggregate_posterior_means": "mean of p(x|z), z ~ q(z|x') of random training images x'",
    "reconstructions": "x ~ p(x|z), z ~ q(z|x') of the test images x'",
    "reconstruction_means": "mean of p(x|z), z ~ q(z|x') of the test images x'",
    "train": "real training images: the floor",
    "test": "real test images: the floor, if as many",
}
OF_PRIOR = ("samples", "sample_means", "tempered_samples", "tempered_sample_means")
Blocks = Callable[[], Iterator[np.ndarray]]  # makes the images anew at each call


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user decides about the sample metrics.

    Attributes:
      num_samples: against train; against test it is at most 10,000, or as many as there are test
        images. Of real images no more are taken. 0: no sample metrics.
      inception_weights: file of the weights; None: looked for below the data directory, or
        downloaded to there.
      preprocessing: keys of `metrics.features.PREPROCESSING`.
      allow_biased: compute Frechet distances also from fewer images than features + 1.
    """

    num_samples: int = NUM_SAMPLES
    inception_weights: str | None = None
    preprocessing: tuple[str, ...] = ("pytorch_fid",)
    allow_biased: bool = False

    def __post_init__(self):
        if self.num_samples < 0 or self.num_samples in range(1, MIN_NUM_SAMPLES):
            raise ValueError(
                f"num_samples = {self.num_samples} must be at least {MIN_NUM_SAMPLES}, or 0 for no "
                "sample metrics."
            )
        unknown = set(self.preprocessing) - PREPROCESSING.keys()
        if unknown or not self.preprocessing:
            raise ValueError(
                f"preprocessing = {list(self.preprocessing)} must name at least one of "
                f"{', '.join(PREPROCESSING)}."
            )


class NotFiniteError(ValueError):
    """The model gives numbers that are not finite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of single images, for whoever looks for images that are far from all others.

    Attributes:
      space: in words, '2048 Inception features, pytorch_fid preprocessing'.
      train, test: float32 [n, tap], of the first images of `real_split`, 10,000 at most.
      sample_means, reconstruction_means: likewise of the functions of that name.
    """

    space: str
    train: np.ndarray
    test: np.ndarray
    sample_means: np.ndarray
    reconstruction_means: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SampleEvaluation:
    """What is known of the samples.

    Attributes:
      metrics: by name.
      grids: uint8 [H, W, 3] by name.
      notes: in words what is missing and why.
      features: on the finest tap, with the first preprocessing.
    """

    metrics: dict[str, Metric]
    grids: dict[str, np.ndarray]
    notes: list[str]
    features: Features


def find_weights(
    vae: TrainedVAE, options: Options
) -> tuple[inception_weights.InceptionWeights | None, list[str]]:
    """The Inception weights, and in words which metrics cannot be had with them, and how they can.

    Raises:
      ValueError: a file of weights is there and is not good.
    """
    if options.num_samples == 0:
        return None, ["No sample metrics were asked for (--num_samples=0)."]
    try:
        weights = inception_weights.find_or_download(options.inception_weights, _data_dir(vae))
    except inception_weights.WeightsUnavailableError as error:
        return None, [f"Missing: all metrics on Inception features (`fid`, `kid`, ...): {error}"]
    sources = f"evaluate with --inception_weights=FILE, from {' or '.join(inception_weights.URLS)}"
    if not set(TAPS) & set(weights.available_taps):
        return None, [
            "Missing: all metrics on Inception features: the weights at hand end before the "
            f"{min(TAPS)} features that these need at least; {sources}."
        ]
    notes = []
    if FID_TAP not in weights.available_taps:
        notes.append(
            "Missing: `fid` and all else on 2048 features, and the Inception score: the weights at "
            f"hand end before the layers that these need; {sources}. Metrics on 768 features are "
            "not on FID's scale: compare them with nothing but the same metric."
        )
    elif not weights.has_logits:
        notes.append(f"Missing: the Inception score: the weights have no logits; {sources}.")
    return weights, notes


def best_tap(weights: inception_weights.InceptionWeights) -> int:
    """The finest features that these weights have and distances are of; otherwise a ValueError."""
    for tap in TAPS:
        if tap in weights.available_taps:
            return tap
    raise ValueError(
        f"the Inception weights at hand have the features {weights.available_taps}, but distances "
        f"need one of {TAPS}: give --inception_weights=FILE, from "
        f"{' or '.join(inception_weights.URLS)}."
    )


def check_num_samples(num_samples: int, weights: inception_weights.InceptionWeights) -> None:
    """Raises a ValueError, before hours of work, where no Frechet distance could be computed."""
    tap = best_tap(weights)
    if num_samples <= tap:
        raise ValueError(
            f"--num_samples={num_samples} must be more than {tap}, the number of features: the "
            "covariance of fewer images is singular."
        )


def evaluate(
    vae: TrainedVAE, options: Options, weights: inception_weights.InceptionWeights
) -> SampleEvaluation:
    """All sample metrics that the weights allow, in both protocols.

    Raises:
      NotFiniteError: the decoder gives non-finite images.
    """
    generated, aggregate_posterior = _generate(vae, options.num_samples)
    taps = [tap for tap in TAPS if tap in weights.available_taps]
    metrics, notes, features = {}, [], []
    for preprocessing in dict.fromkeys(options.preprocessing):
        extractor = FeatureExtractor(weights, taps, preprocessing)
        sets = _extract(vae, options, extractor, generated)
        metrics |= _measure(vae, options, extractor, sets, notes)
        features.append(_single_features(extractor, sets))
    grids = {"aggregate_posterior": aggregate_posterior}
    return SampleEvaluation(metrics, grids, notes, features[0])


def _single_features(extractor: FeatureExtractor, sets: Mapping[str, FeatureSet]) -> Features:
    names = (field.name for field in dataclasses.fields(Features) if field.name != "space")
    tap = extractor.taps[0]
    space = f"{tap} Inception features, {extractor.preprocessing} preprocessing"
    return Features(space, **{name: sets[name].features[tap] for name in names})


def _data_dir(vae: TrainedVAE) -> pathlib.Path:
    return pathlib.Path(vae.config.data.dir).expanduser()


def real_split(vae: TrainedVAE, split: str, num_samples: int) -> Split:
    """Images of the file in one fixed random order: as many as there are samples, at most.

    Of the published training set, that is, with what is set aside for validation here.
    """
    n = min(num_samples, NUM_SAMPLES_TEST) if split == "test" else num_samples
    part = configuration.load_split(vae.config, split)
    order = np.random.default_rng(0).permutation(len(part.images))[:n]
    return dataclasses.replace(part, indices=order)


def _images(split: Split) -> np.ndarray:
    """All of them, uint8 [N, H, W, C]."""
    return split.take(slice(None))


def _set_keys(vae: TrainedVAE) -> dict[str, jax.Array]:
    """The keys from which the sets of images are made."""
    names = ("prior", "index", "aggregate", "reconstruction", "decoder")
    key = jax.random.fold_in(jax.random.key(vae.config.eval.seed), 2)
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def sample_means(
    vae: TrainedVAE, num_samples: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The first of that set: (z [N, *latent_shape], uint8 [N, H, W, C])."""
    blocks = [
        _prior_block(vae, key, False, temperature)
        for _, key in _block_keys(_set_keys(vae)["prior"], num_samples)
    ]
    z, images = (np.concatenate(parts)[:num_samples] for parts in zip(*blocks, strict=True))
    return z, images


def reconstruction_means(vae: TrainedVAE, num_samples: int) -> np.ndarray:
    """That set, uint8 [N, H, W, C], of `real_split` of the test images."""
    return decode_means(
        vae, _reconstruction_codes(vae, _images(real_split(vae, "test", num_samples)))
    )


def _prior_block(
    vae: TrainedVAE, key: jax.Array, draw: bool, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(z, images) of `BLOCK_SIZE` samples; the z are the same for means and draws."""
    z_key, x_key = jax.random.split(key)
    z = vae.sample_prior(z_key, BLOCK_SIZE, temperature)
    return z, _to_bytes(vae.decode(z, x_key if draw else None))


def aggregate_posterior_codes(vae: TrainedVAE, num_samples: int, keys: jax.Array) -> np.ndarray:
    """z ~ q(z|x) of random training images x, [N, *latent_shape], from two keys."""
    train = configuration.load_split(vae.config, "train")
    chosen = np.asarray(jax.random.randint(keys[0], (num_samples,), 0, len(train)))
    return _draw(vae.encode(train.take(chosen)), keys[1])


def decode_means(vae: TrainedVAE, z: np.ndarray) -> np.ndarray:
    """The means of p(x|z) as they would be stored, uint8 [N, H, W, C]."""
    starts = range(0, len(z), BLOCK_SIZE)
    return np.concatenate([_to_bytes(vae.decode(z[i : i + BLOCK_SIZE])) for i in starts])


def _reconstruction_codes(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    return _draw(vae.encode(images), _set_keys(vae)["reconstruction"])


def _generate(
    vae: TrainedVAE, num_samples: int
) -> tuple[dict[str, tuple[int, Blocks]], np.ndarray]:
    """The sets of the model's images, each with its number, and a grid of decoded q(z|x').

    A set's images and the means of the same name have the same z.
    """
    keys = _set_keys(vae)
    test = _images(real_split(vae, "test", num_samples))
    num_decoded = len(test)
    aggregate_keys = (keys["index"], keys["aggregate"])
    aggregate_z = aggregate_posterior_codes(vae, num_decoded, aggregate_keys)
    reconstruction_z = _reconstruction_codes(vae, test)

    def decoded(z: np.ndarray, draw: bool) -> Blocks:
        return lambda: (
            _to_bytes(vae.decode(z[i : i + BLOCK_SIZE], k if draw else None))
            for i, k in _block_keys(keys["decoder"], len(z))
        )

    def prior(draw: bool, temperature: float = 1.0) -> Blocks:
        return lambda: (
            _prior_block(vae, k, draw, temperature)[1][: num_samples - i]
            for i, k in _block_keys(keys["prior"], num_samples)
        )

    temperature = vae.config.prior.temperature
    tempered = {
        "tempered_samples": (num_samples, prior(True, temperature)),
        "tempered_sample_means": (num_samples, prior(False, temperature)),
    }
    generated = {
        "samples": (num_samples, prior(draw=True)),
        "sample_means": (num_samples, prior(draw=False)),
        **(tempered if temperature != 1.0 else {}),
        "aggregate_posterior_samples": (num_decoded, decoded(aggregate_z, draw=True)),
        "aggregate_posterior_means": (num_decoded, decoded(aggregate_z, draw=False)),
        "reconstructions": (num_decoded, decoded(reconstruction_z, draw=True)),
        "reconstruction_means": (num_decoded, decoded(reconstruction_z, draw=False)),
    }
    shown = figures.image_grid(_to_bytes(vae.decode(aggregate_z[:NUM_SHOWN])), NUM_COLUMNS)
    return generated, shown


def _block_keys(key: jax.Array, n: int) -> Iterator[tuple[int, jax.Array]]:
    """(start of a block, its key): the first images do not depend on how many follow."""
    for start in range(0, n, BLOCK_SIZE):
        yield start, jax.random.fold_in(key, start)


def _draw(posterior: DiagonalGaussian, key: jax.Array) -> np.ndarray:
    noise = jax.random.normal(key, posterior.mean.shape)
    return np.asarray(posterior.reparameterise(noise))


def _to_bytes(images: np.ndarray) -> np.ndarray:
    """Float images [0, 1] -> uint8, as they would be stored."""
    if not np.isfinite(images).all():
        raise NotFiniteError(
            "the decoder gave pixels that are not finite: its images cannot be compared with real "
            "ones; evaluate an earlier checkpoint with --checkpoint=STEP."
        )
    return figures.to_uint8(images)


def _extract(
    vae: TrainedVAE,
    options: Options,
    extractor: FeatureExtractor,
    generated: Mapping[str, tuple[int, Blocks]],
) -> dict[str, FeatureSet]:
    """Features of all sets with one preprocessing."""
    LOGGER.info(
        "sample metrics: %s images through the Inception network, besides real ones not yet cached "
        "(--num_samples=N for fewer)",
        f"{sum(n for n, _ in generated.values()):,}",
    )
    cache_dir = _data_dir(vae) / "inception" / "reference"
    dataset = pathlib.Path(vae.config.data.name).name
    sets = {
        split: reference_features(
            extractor,
            _images(real_split(vae, split, options.num_samples)),
            f"{dataset}-{split}",
            cache_dir,
        )
        for split in ("test", "train")
    }
    for name, (n, blocks) in generated.items():
        sets[name] = extractor.feature_set(blocks(), n, name.replace("_", " "))
    return sets


def _measure(
    vae: TrainedVAE,
    options: Options,
    extractor: FeatureExtractor,
    sets: Mapping[str, FeatureSet],
    notes: list[str],
) -> dict[str, Metric]:
    """All comparisons with one preprocessing."""
    metrics = {}
    for name in (name for name in SETS if name in sets and name != "test"):
        metrics |= _compare(vae, options, extractor, sets, name, "test", notes)
    for name in (name for name in (*OF_PRIOR, "test") if name in sets):
        metrics |= _compare(vae, options, extractor, sets, name, "train", notes)
    return metrics


def _compare(
    vae: TrainedVAE,
    options: Options,
    extractor: FeatureExtractor,
    sets: Mapping[str, FeatureSet],
    name: str,
    split: str,
    notes: list[str],
) -> dict[str, Metric]:
    """Metrics of the images called `name` against the real ones of `split`."""
    real, fake = sets[split], sets[name]
    if split == "test":
        fake = fake.first(len(real))  # the distance depends on the number: the same in all rows
    prefix = "clean_" if extractor.preprocessing == "clean" else ""
    measures = {}
    for tap in extractor.taps:
        suffix = "" if tap == FID_TAP else f"_{tap}"
        of_tap = measure_tap(real, fake, tap, options.allow_biased, vae.config.eval.seed)
        measures |= {f"{prefix}{metric}{suffix}": measure for metric, measure in of_tap.items()}
        note = (
            f"Missing: `{prefix}fid{suffix}` where a set has no more than {tap} images: its "
            "covariance is singular. Take more (--num_samples), or add --allow_biased_fid."
        )
        if "fid" not in of_tap and note not in notes:
            notes.append(note)
    if fake.logits is not None:
        num_splits = min(NUM_SPLITS, len(fake))
        score, standard_error = inception_score(fake.logits, num_splits)
        how = f"{len(fake):,} images in {num_splits} splits"
        measures[f"{prefix}inception_score"] = (score, standard_error, len(fake), how)
    return {
        f"{name}_vs_{split}/{metric}": Metric(
            value=value,
            unit="",
            split=split,
            num_images=n,
            seed=vae.config.eval.seed,
            checkpoint_step=vae.step,
            protocol=f"{how}, {extractor.preprocessing} preprocessing",
            standard_error=standard_error,
        )
        for metric, (value, standard_error, n, how) in measures.items()
    }


def measure_tap(
    real: FeatureSet, fake: FeatureSet, tap: int, allow_biased: bool, seed: int
) -> dict[str, tuple[float, float | None, int, str]]:
    """Metrics of two sets on one tap: {name: (value, standard error, fake images, protocol)}."""
    measures = {}
    is_biased = min(len(fake), len(real)) <= tap
    if allow_biased or not is_biased:
        distance = frechet_distance(fake.statistics[tap], real.statistics[tap], allow_biased)
        how = f"{len(fake):,} images against {len(real):,}, {tap} features"
        how += ", biased: singular covariance" if is_biased else ""
        measures["fid"] = (distance, None, len(fake), how)
    n = min(len(real.features[tap]), len(fake.features[tap]))
    x, y = real.features[tap][:n], fake.features[tap][:n]
    rng = np.random.default_rng(seed)
    distance, standard_error = kernel_distance(x, y, rng, KID_SUBSETS, KID_SUBSET_SIZE)
    how = f"{n:,} images against as many"
    subsets = f", {KID_SUBSETS} subsets of {KID_SUBSET_SIZE:,}" if n > KID_SUBSET_SIZE else ""
    measures["kid"] = (distance, standard_error, n, f"{how}{subsets}, {tap} features")
    for metric, value in manifold_metrics(x, y).items():
        k = 3 if metric in ("precision", "recall") else 5
        measures[metric] = (value, None, n, f"{how}, neighbour {k}, {tap} features")
    return measures
