"""Sample metrics: the distance of a model's images from real ones, in Inception features.

`find_weights` loads the Inception network, or says which metrics are missing without it;
`evaluate` compares all sets of images that the model makes with the test and training images.
"""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_jax.errors import InputError
from vae_jax.files import expand
from vae_jax.inference import TrainedVAE, arguments
from vae_jax.inference.image_sets import SETS, Blocks, Features, generate, real_split
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import PREPROCESSING, FeatureExtractor, FeatureSet
from vae_jax.metrics.frechet import frechet_distance
from vae_jax.metrics.inception_score import inception_score
from vae_jax.metrics.kernel_distance import kernel_distance
from vae_jax.metrics.manifold import manifold_metrics
from vae_jax.metrics.metric import FID_TAP as FID_TAP
from vae_jax.metrics.metric import Metric, by_key, label_of, too_few_images
from vae_jax.metrics.reference import reference_features
from vae_jax.registry import show

LOGGER = logging.getLogger(__name__)
NUM_SAMPLES = 50_000  # samples that are compared with the training images
MIN_NUM_SAMPLES = 10  # fewer would say nothing about a model
TAPS = (FID_TAP, 768)  # 768 are available from weights without the last blocks
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NUM_SPLITS = 10  # splits of the Inception score; fewer if there are not two images for each
NEIGHBOURS = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}  # as in the papers
# Least number of images of either set; an unbiased Frechet distance needs more than features.
MIN_NUM_IMAGES = {
    **{"fid": 2, "kid": 2, "inception_score": 2},
    **{name: k + 1 for name, k in NEIGHBOURS.items()},
}
PRIOR_SETS = ("samples", "sample_means", "tempered_samples", "tempered_sample_means")


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices of a user about the sample metrics.

    Attributes:
      num_samples: number of samples that are compared with the training images, and largest number
        of training images used. Against test images it is at most 10,000 and at most the number of
        test images. 0: no sample metrics.
      inception_weights: file of the Inception weights; None: the file in the data directory, which
        is downloaded if it is missing.
      preprocessing: keys of `metrics.features.PREPROCESSING`.
      allow_biased: whether to compute Frechet distances from too few images, that is, no more than
        features.
    """

    num_samples: int = NUM_SAMPLES
    inception_weights: str | None = None
    preprocessing: tuple[str, ...] = ("pytorch_fid",)
    allow_biased: bool = False

    def __post_init__(self) -> None:
        number = self.num_samples
        is_integer = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not is_integer or (number != 0 and number < MIN_NUM_SAMPLES):
            raise InputError(
                f"num_samples = {show(number)} must be an integer, at least {MIN_NUM_SAMPLES}, or "
                "0 for no sample metrics."
            )
        arguments.flag("allow_biased", self.allow_biased)
        unknown = set(self.preprocessing) - PREPROCESSING.keys()
        if unknown or not self.preprocessing:
            raise InputError(
                f"preprocessing = {list(self.preprocessing)} must name at least one of "
                f"{', '.join(PREPROCESSING)}."
            )


class Measured(NamedTuple):
    """What is measured of two sets of images; the fields are those of `Metric`."""

    value: float
    standard_error: float | None
    num_images: int
    protocol: str
    is_biased: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class SampleEvaluation:
    """The results of an evaluation of samples.

    Attributes:
      metrics: the metrics, by key.
      grids: grids of images, uint8 [H, W, 3], by name.
      notes: sentences that say what is missing and why.
      features: features of single images on the finest tap, with the first preprocessing.
    """

    metrics: dict[str, Metric]
    grids: dict[str, np.ndarray]
    notes: list[str]
    features: Features


def find_weights(
    vae: TrainedVAE, options: Options
) -> tuple[inception_weights.InceptionWeights | None, list[str]]:
    """Finds the Inception weights, or downloads them.

    Returns:
      The weights, or None without any; and sentences that say which metrics are missing with these
      weights and what to do about it.

    Raises:
      InputError: the file of the weights is damaged or has other contents.
    """
    if options.num_samples == 0:
        return None, ["Sample metrics are switched off (--num_samples=0)."]
    try:
        weights = inception_weights.find_or_download(options.inception_weights, _data_dir(vae))
        best_tap(weights)  # raises an error if there is none
    except inception_weights.WeightsUnavailableError as error:
        return None, [f"Missing: all metrics on Inception features (`fid`, `kid`, ...): {error}"]
    sources = f"evaluate with --inception_weights=FILE, from {' or '.join(inception_weights.URLS)}"
    notes = []
    if FID_TAP not in weights.available_taps:
        notes.append(
            "Missing: `fid` and all other metrics on 2048 features, and the Inception score: the "
            f"weights that were found end before the layers that these need; {sources}. Metrics on "
            "768 features are not on the scale of FID: compare them only with the same metric."
        )
    elif not weights.has_logits:
        notes.append(f"Missing: the Inception score: the weights have no logits; {sources}.")
    return weights, notes


def best_tap(weights: inception_weights.InceptionWeights) -> int:
    """Returns the finest tap of these weights on which distances can be computed.

    Raises:
      WeightsUnavailableError: the weights have no such tap.
    """
    for tap in TAPS:
        if tap in weights.available_taps:
            return tap
    raise inception_weights.WeightsUnavailableError(
        f"the Inception weights that were found have the features {weights.available_taps}, but "
        f"distances need one of {TAPS}: give --inception_weights=FILE, from "
        f"{' or '.join(inception_weights.URLS)}."
    )


def check_num_samples(num_samples: int, weights: inception_weights.InceptionWeights) -> None:
    """Checks, before hours of work, that there are enough samples for a Frechet distance.

    Raises:
      InputError: there are no more samples than features.
    """
    tap = best_tap(weights)
    if num_samples <= tap:
        raise InputError(
            f"--num_samples={num_samples} must be more than {tap}, the number of features: the "
            "covariance of fewer images is singular."
        )


def evaluate(
    vae: TrainedVAE, options: Options, weights: inception_weights.InceptionWeights
) -> SampleEvaluation:
    """Computes all sample metrics that the weights allow.

    Args:
      vae: the model.
      options: number of samples, preprocessing, and what to do with too few images.
      weights: weights of the Inception network.

    Raises:
      NotFiniteError: the decoder computes non-finite images.
    """
    generated, aggregate_posterior = generate(vae, options.num_samples)
    taps = [tap for tap in TAPS if tap in weights.available_taps]
    metrics: list[Metric] = []
    notes: list[str] = []
    features: list[Features] = []
    for preprocessing in dict.fromkeys(options.preprocessing):
        extractor = FeatureExtractor(weights, taps, preprocessing)
        sets = _extract(vae, options, extractor, generated)
        for name, split in _pairs(sets):
            metrics += _compare(vae, options, extractor, sets, name, split)
        features.append(_single_features(extractor, sets))
        smallest = min(map(len, sets.values()))
        notes += [
            f"Missing: `{label_of('fid', preprocessing, tap)}` of sets with no more than {tap} "
            "images, whose covariance is singular. Take more images (--num_samples), or add "
            "--allow_biased_fid."
            for tap in taps
            if smallest <= tap and not options.allow_biased
        ]
        notes += _too_few(options, extractor, sets)
    grids = {"aggregate_posterior": aggregate_posterior}
    return SampleEvaluation(by_key(metrics), grids, notes, features[0])


def _too_few(
    options: Options, extractor: FeatureExtractor, sets: Mapping[str, FeatureSet]
) -> list[str]:
    """Returns sentences about the metrics for which a split has too few images."""
    taps: dict[str, Sequence[int | None]] = dict.fromkeys(("kid", *NEIGHBOURS), extractor.taps)
    if options.allow_biased:
        taps["fid"] = extractor.taps
    if extractor.weights.has_logits:
        taps["inception_score"] = [None]
    notes = []
    for split in ("test", "train"):
        n, labels = len(sets[split]), dict[int, list[str]]()
        for name, minimum in MIN_NUM_IMAGES.items():
            # The training images do not limit the images that get an Inception score.
            if n < minimum and not (name == "inception_score" and split == "train"):
                named = [label_of(name, extractor.preprocessing, t) for t in taps.get(name, ())]
                labels.setdefault(minimum, []).extend(f"`{label}`" for label in named)
        notes += [
            too_few_images(
                f"{'each of ' * (len(named) > 1)}{', '.join(named)} with {split} images",
                *(minimum, split, n),
            )
            for minimum, named in labels.items()
        ]
    return notes


def _single_features(extractor: FeatureExtractor, sets: Mapping[str, FeatureSet]) -> Features:
    names = (field.name for field in dataclasses.fields(Features) if field.name != "space")
    tap = extractor.taps[0]
    space = f"{tap} Inception features, {extractor.preprocessing} preprocessing"
    return Features(space, **{name: sets[name].features[tap] for name in names})


def _data_dir(vae: TrainedVAE) -> pathlib.Path:
    return expand("data.dir", vae.experiment.dataset.data_dir)


def _extract(
    vae: TrainedVAE,
    options: Options,
    extractor: FeatureExtractor,
    generated: Mapping[str, tuple[int, Blocks]],
) -> dict[str, FeatureSet]:
    """Extracts the features of all sets of images, with one preprocessing."""
    LOGGER.info(
        "Sample metrics: %s images go through the Inception network, plus the real images that are "
        "not in the cache yet (fewer with --num_samples=N).",
        f"{sum(n for n, _ in generated.values()):,}",
    )
    cache_dir = _data_dir(vae) / "inception" / "reference"
    dataset = pathlib.Path(vae.experiment.dataset.name).name
    sets = {
        split: reference_features(
            extractor,
            real_split(vae, split, options.num_samples),
            f"{dataset}-{split}",
            cache_dir,
        )
        for split in ("test", "train")
    }
    for name, (n, blocks) in generated.items():
        sets[name] = extractor.feature_set(blocks(), n, name.replace("_", " "))
    return sets


def _pairs(sets: Mapping[str, FeatureSet]) -> list[tuple[str, str]]:
    """Returns the names of the sets, each with the split that it is compared with."""
    with_test = [(name, "test") for name in SETS if name in sets and name != "test"]
    return with_test + [(name, "train") for name in (*PRIOR_SETS, "test") if name in sets]


def _compare(
    vae: TrainedVAE,
    options: Options,
    extractor: FeatureExtractor,
    sets: Mapping[str, FeatureSet],
    name: str,
    split: str,
) -> list[Metric]:
    """Compares the set of images called `name` with the real images of `split`."""
    real, fake, seed = sets[split], sets[name], vae.experiment.evaluation.seed
    if split == "test":
        # The distance depends on the number of images, so it must be the same for all sets.
        fake = fake.first(len(real))
    create = functools.partial(
        Metric,
        unit="",
        image_set=name,
        reference_split=split,
        preprocessing=extractor.preprocessing,
        seed=seed,
        checkpoint_step=vae.step,
    )
    metrics = []
    for tap in extractor.taps:
        measured = measure_tap(real, fake, tap, options.allow_biased, seed)
        metrics += [create(name=n, tap=tap, **m._asdict()) for n, m in measured.items()]
    if fake.logits is not None and len(fake) >= MIN_NUM_IMAGES["inception_score"]:
        num_splits = min(NUM_SPLITS, len(fake) // 2)
        score, error = inception_score(fake.logits, num_splits)
        result = Measured(score, error, len(fake), f"in {num_splits} splits")
        metrics.append(create(name="inception_score", **result._asdict()))
    return metrics


def measure_tap(
    real: FeatureSet, fake: FeatureSet, tap: int, allow_biased: bool, seed: int
) -> dict[str, Measured]:
    """Computes the metrics of two sets of images on one tap.

    Args:
      real: features of the real images.
      fake: features of the images that the model made.
      tap: number of features.
      allow_biased: whether to compute a Frechet distance from no more images than features.
      seed: random seed of the subsets for the kernel distance.

    Returns:
      The results by name of the metric, without those that need more images.
    """
    measured: dict[str, Measured] = {}
    smaller = min(len(fake), len(real))
    is_biased = smaller <= tap
    if not is_biased or (allow_biased and smaller >= MIN_NUM_IMAGES["fid"]):
        distance = frechet_distance(fake.statistics[tap], real.statistics[tap], allow_biased)
        measured["fid"] = Measured(distance, None, len(fake), f"against {len(real):,}", is_biased)
    n = min(len(real.features[tap]), len(fake.features[tap]))
    x, y = real.features[tap][:n], fake.features[tap][:n]
    if n >= MIN_NUM_IMAGES["kid"]:
        rng = np.random.default_rng(seed)
        distance, standard_error = kernel_distance(x, y, rng, KID_SUBSETS, KID_SUBSET_SIZE)
        subsets = f", {KID_SUBSETS} subsets of {KID_SUBSET_SIZE:,}" if n > KID_SUBSET_SIZE else ""
        measured["kid"] = Measured(distance, standard_error, n, f"against as many{subsets}")
    neighbours = {name: k for name, k in NEIGHBOURS.items() if n >= MIN_NUM_IMAGES[name]}
    if neighbours:
        values = manifold_metrics(x, y, NEIGHBOURS["precision"], max(neighbours.values()))
        measured |= {
            name: Measured(values[name], None, n, f"against as many, neighbour {k}")
            for name, k in neighbours.items()
        }
    return measured
