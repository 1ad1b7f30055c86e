"""How good samples are."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping

import numpy as np

from vae_jax.errors import InputError
from vae_jax.inference import TrainedVAE
from vae_jax.inference.image_sets import SETS, Blocks, Features, all_images, generate, real_split
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import PREPROCESSING, FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import frechet_distance
from vae_jax.metrics.inception_score import inception_score
from vae_jax.metrics.kernel_distance import kernel_distance
from vae_jax.metrics.manifold import manifold_metrics
from vae_jax.metrics.metric import Metric
from vae_jax.metrics.reference import reference_features

LOGGER = logging.getLogger(__name__)
NUM_SAMPLES = 50_000  # against train
MIN_NUM_SAMPLES = 10  # for the splits of the Inception score and the fifth neighbour
FID_TAP = 2048  # what FID, and every metric without a number in its name, is defined on
TAPS = (FID_TAP, 768)  # 768: what can be had of weights without the last blocks
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NUM_SPLITS = 10  # of the Inception score
OF_PRIOR = ("samples", "sample_means", "tempered_samples", "tempered_sample_means")


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
            raise InputError(
                f"num_samples = {self.num_samples} must be at least {MIN_NUM_SAMPLES}, or 0 for no "
                "sample metrics."
            )
        unknown = set(self.preprocessing) - PREPROCESSING.keys()
        if unknown or not self.preprocessing:
            raise InputError(
                f"preprocessing = {list(self.preprocessing)} must name at least one of "
                f"{', '.join(PREPROCESSING)}."
            )


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
    raise InputError(
        f"the Inception weights at hand have the features {weights.available_taps}, but distances "
        f"need one of {TAPS}: give --inception_weights=FILE, from "
        f"{' or '.join(inception_weights.URLS)}."
    )


def check_num_samples(num_samples: int, weights: inception_weights.InceptionWeights) -> None:
    """Raises a ValueError, before hours of work, where no Frechet distance could be computed."""
    tap = best_tap(weights)
    if num_samples <= tap:
        raise InputError(
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
    generated, aggregate_posterior = generate(vae, options.num_samples)
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
            all_images(real_split(vae, split, options.num_samples)),
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
