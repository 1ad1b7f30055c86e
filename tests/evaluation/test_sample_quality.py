"""Tests of vae_jax/evaluation/sample_quality.py, with a cheap stand-in for the network."""

import dataclasses
import functools
import math
import shutil
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist
from scipy.special import softmax

from tests.conftest import NUM_TEST, NUM_TRAIN, NUM_VALIDATION, changed_vae
from vae_jax.distributions import DiagonalGaussian
from vae_jax.evaluation import sample_quality
from vae_jax.evaluation.sample_quality import Options
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.metrics import inception_weights
from vae_jax.metrics import metric as metric_module
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.metrics.inception import LOGITS
from vae_jax.metrics.inception_layers import LAYER_SHAPES
from vae_jax.metrics.inception_weights import InceptionWeights
from vae_jax.recording import figures
from vae_jax.streams import stream

TEMPERED = ("tempered_samples", "tempered_sample_means")  # if a temperature is given
GENERATED = tuple(name for name in image_sets.SETS if name not in ("train", "test", *TEMPERED))
PAIRS = (
    *(f"{name}_vs_test" for name in (*GENERATED, "train")),
    *(f"{name}_vs_train" for name in ("samples", "sample_means", "test")),
)
METRICS = ("fid", "kid", "precision", "recall", "density", "coverage")
PREPROCESSING = ("pytorch_fid", "clean")
TAPS = (12, 8)  # instead of 2048 and 768: less than the 20 test images
NUM_FILE = NUM_TRAIN + NUM_VALIDATION
NUM_SAMPLES = NUM_FILE + 4
BLOCK_SIZE = 8  # does not divide NUM_TEST


# A cheap map in place of the network


@functools.cache
def projection(num_pixels: int, tap: int) -> np.ndarray:
    return np.random.default_rng(tap).normal(size=(num_pixels, tap)) / 4


def features_of(images: np.ndarray, tap: int, preprocessing: str) -> np.ndarray:
    """Returns a random projection of the pixels or of their squares, float32 [N, tap]."""
    pixels = images.reshape(len(images), -1) / 255.0
    if preprocessing == "clean":
        pixels = pixels**2
    return (pixels @ projection(pixels.shape[1], tap)).astype(np.float32)


class StandIn(FeatureExtractor):
    """Computes `features_of` in place of the network and records all requests."""

    seen: dict  # (preprocessing, description of the set) -> (announced number, images)

    def feature_set(self, blocks, num_images, description=None):
        blocks = list(blocks)
        assert (self.preprocessing, description) not in self.seen
        self.seen[self.preprocessing, description] = num_images, np.concatenate(blocks)
        return super().feature_set(blocks, num_images, description)

    def features(self, images):
        assert images.dtype == np.uint8 and images.ndim == 4
        sizes = (*self.taps, *([LOGITS] if self.weights.has_logits else []))
        return {size: features_of(images, size, self.preprocessing) for size in sizes}


def stand_in_weights(taps=TAPS, has_logits: bool = True):
    return types.SimpleNamespace(
        layers={}, available_taps=taps, has_logits=has_logits, digest=f"{taps}"
    )


def evaluate(
    vae,
    num_samples: int = NUM_SAMPLES,
    weights=None,
    taps=TAPS,
    block_size: int = BLOCK_SIZE,
    **options,
):
    """Returns (evaluation, {(preprocessing, description): (announced number, images)})."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandIn, "seen", {}, raising=False)
        patch.setattr(sample_quality, "FeatureExtractor", StandIn)
        patch.setattr(sample_quality, "TAPS", taps)
        patch.setattr(sample_quality, "FID_TAP", taps[0])
        patch.setattr(metric_module, "FID_TAP", taps[0])
        patch.setattr(image_sets, "BLOCK_SIZE", block_size)
        evaluation = sample_quality.evaluate(
            vae, Options(num_samples, **options), weights or stand_in_weights(taps)
        )
        return evaluation, StandIn.seen


def generated_images(seen, preprocessing: str = "pytorch_fid") -> dict[str, np.ndarray]:
    return {name: seen[preprocessing, name.replace("_", " ")][1] for name in GENERATED}


def real_images(seen, preprocessing: str = "pytorch_fid") -> dict[str, np.ndarray]:
    return {s: seen[preprocessing, f"features of tiny-{s}"][1] for s in ("train", "test")}


def make_own_vae(vae, data_dir, directory, seed: int = 0) -> TrainedVAE:
    """The trained run with data of its own, beside which features may be stored."""
    shutil.copytree(data_dir / "tiny", directory / "tiny")
    return changed_vae(vae, directory, seed=seed)


@pytest.fixture
def own_vae(vae, data_dir, tmp_path) -> TrainedVAE:
    return make_own_vae(vae, data_dir, tmp_path / "own")


@pytest.fixture(scope="module")
def files(data_dir) -> dict[str, np.ndarray]:
    return {s: np.load(data_dir / "tiny" / f"{s}_images.npy") for s in ("train", "test")}


@pytest.fixture(scope="module")
def evaluated(vae, data_dir, tmp_path_factory):
    """(evaluation, requests) with both kinds of preprocessing."""
    own = make_own_vae(vae, data_dir, tmp_path_factory.mktemp("data"))
    return evaluate(own, preprocessing=PREPROCESSING)


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


# Names and protocols


def expected_names(suffixes, prefix: str = "", has_scores: bool = True) -> set[str]:
    names = {f"{pair}/{prefix}{m}{s}" for pair in PAIRS for m in METRICS for s in suffixes}
    if has_scores:  # only for the model's images: logits of real ones are not stored
        scored = [pair for pair in PAIRS if pair.split("_vs_")[0] in GENERATED]
        names |= {f"{pair}/{prefix}inception_score" for pair in scored}
    return names


def test_names_contain_sets_preprocessing_and_tap(evaluated):
    names = expected_names(("", "_8")) | expected_names(("", "_8"), "clean_")
    assert evaluated[0].metrics.keys() == names
    assert evaluated[0].notes == []


def mean_distance(a, b, allow_biased: bool) -> float:
    """A cheap stand-in for the Frechet distance, which needs roots of 2048 x 2048 matrices."""
    assert allow_biased
    return float(np.sum((a.mean - b.mean) ** 2))


@pytest.mark.parametrize(
    ("available", "has_logits", "suffixes"),
    [((64, 192, 768, 2048), True, ("", "_768")), ((64, 192, 768), False, ("_768",))],
    ids=["all", "to_768"],
)
def test_numbers_on_2048_features_have_the_plain_names(
    own_vae, monkeypatch, available, has_logits, suffixes
):
    monkeypatch.setattr(sample_quality, "frechet_distance", mean_distance)
    monkeypatch.setattr(  # its files would be large
        sample_quality,
        "reference_features",
        lambda extractor, images, name, cache_dir: dataclasses.replace(
            extractor.feature_set([images.take(slice(None))], len(images), name), logits=None
        ),
    )
    weights = stand_in_weights(available, has_logits)
    evaluation, _ = evaluate(own_vae, 10, weights, sample_quality.TAPS, allow_biased=True)
    assert evaluation.metrics.keys() == expected_names(suffixes, has_scores=has_logits)
    assert "samples_vs_test/fid_768" in evaluation.metrics


def test_every_metric_says_what_is_needed_to_compare_it(evaluated, vae):
    for name, metric in evaluated[0].metrics.items():
        pair, short = name.split("/")
        fake, split = pair.split("_vs_")
        num_real = {"test": NUM_TEST, "train": NUM_FILE}[split]
        num_fake = NUM_TEST if split == "test" or fake == "test" else NUM_SAMPLES
        assert math.isfinite(metric.value), name
        assert metric.unit == "" and metric.reference_split == split and metric.image_set == fake
        assert metric.seed == vae.experiment.evaluation.seed and metric.checkpoint_step == vae.step
        preprocessing = "clean" if short.startswith("clean_") else "pytorch_fid"
        assert metric.preprocessing == preprocessing
        assert metric.description.endswith(f", {preprocessing} preprocessing"), name
        short = short.removeprefix("clean_")
        if short == "inception_score":
            assert metric.name == short and metric.tap is None
            assert metric.num_images == num_fake
            assert metric.description.startswith(f"{num_fake} images in 10 splits, ")
            assert metric.standard_error > 0
            continue
        tap = 8 if short.endswith("_8") else 12
        assert metric.tap == tap and metric.name == short.removesuffix("_8")
        assert f", {tap} features, " in metric.description
        if short.startswith("fid"):
            assert metric.num_images == num_fake
            assert metric.description.startswith(f"{num_fake} images against {num_real}, ")
            assert "biased" not in metric.description and not metric.is_biased
        else:
            assert metric.num_images == min(num_fake, num_real), name
            assert metric.description.startswith(f"{metric.num_images} images against as many, ")
        k = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}.get(short.split("_")[0])
        assert k is None or f", neighbour {k}, " in metric.description


def test_kernel_distance_of_subsets_has_its_error_and_says_so(own_vae, monkeypatch):
    monkeypatch.setattr(sample_quality, "KID_SUBSET_SIZE", 15)
    metrics = evaluate(own_vae)[0].metrics
    for name in ("samples_vs_test/kid", "samples_vs_train/kid_8"):
        assert "100 subsets of 15, " in metrics[name].description
        assert metrics[name].standard_error > 0


# Values


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the Frechet distance with the root of the product itself."""
    x, y = np.float64(x), np.float64(y)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * root.real)


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    k = (np.float64(np.concatenate([x, y])) @ np.concatenate([x, y]).T / x.shape[1] + 1) ** 3
    n, m = len(x), len(y)
    within = [(block.sum() - np.diag(block).sum()) for block in (k[:n, :n], k[n:, n:])]
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * k[:n, n:].mean()


def overlap(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    def radius(x, k):
        return np.sort(cdist(x, x), axis=1)[:, k]

    distance = cdist(real, fake)
    return {
        "precision": np.mean((distance < radius(real, 3)[:, None]).any(axis=0)),
        "recall": np.mean((distance < radius(fake, 3)).any(axis=1)),
        "density": (distance < radius(real, 5)[:, None]).sum() / (5 * len(fake)),
        "coverage": np.mean(distance.min(axis=1) < radius(real, 5)),
    }


def score(logits: np.ndarray) -> float:
    """Computes the Inception score over ten splits of equal size."""
    p = softmax(np.float64(logits), axis=1).reshape(10, -1, logits.shape[1])
    p = np.maximum(p, 1e-300)
    kl = (p * np.log(p / p.mean(axis=1, keepdims=True))).sum(axis=2)
    return np.exp(kl.mean(axis=1)).mean()


def expected_values(real: np.ndarray, fake: np.ndarray, preprocessing: str) -> dict[str, float]:
    """Computes all metrics of two sets of images without code of the package."""
    values = {}
    for tap, suffix in ((12, ""), (8, "_8")):
        x, y = (features_of(images, tap, preprocessing) for images in (real, fake))
        values[f"fid{suffix}"] = frechet(x, y)
        n = min(len(x), len(y))
        values[f"kid{suffix}"] = squared_mmd(x[:n], y[:n])
        values |= {f"{name}{suffix}": v for name, v in overlap(x[:n], y[:n]).items()}
    if len(fake) % 10 == 0:
        values["inception_score"] = score(features_of(fake, LOGITS, preprocessing))
    return values


@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_values_are_those_of_the_images_that_were_seen(evaluated, preprocessing):
    evaluation, seen = evaluated
    real = real_images(seen, preprocessing)
    images = {**generated_images(seen, preprocessing), **real}
    prefix = "clean_" if preprocessing == "clean" else ""
    for pair in PAIRS:
        name, split = pair.split("_vs_")
        num_compared = NUM_TEST if split == "test" else NUM_SAMPLES
        fake = images[name][:num_compared]
        for short, value in expected_values(real[split], fake, preprocessing).items():
            if short != "inception_score" or name in GENERATED:
                found = evaluation.metrics[f"{pair}/{prefix}{short}"].value
                np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7, err_msg=pair + short)


def test_number_of_images_compared_with_the_test_images_is_limited(own_vae, monkeypatch):
    monkeypatch.setattr(image_sets, "NUM_SAMPLES_TEST", 15)
    evaluation, seen = evaluate(own_vae)
    images, real = generated_images(seen), real_images(seen)
    assert [len(i) for i in images.values()] == [NUM_SAMPLES, NUM_SAMPLES, 15, 15, 15, 15]
    assert len(real["test"]) == 15
    assert evaluation.metrics["samples_vs_test/fid"].num_images == 15
    assert evaluation.metrics["samples_vs_train/fid"].num_images == NUM_SAMPLES
    compared = {"samples_vs_test": images["samples"], "train_vs_test": real["train"]}
    for pair, fake in compared.items():
        for short, value in expected_values(real["test"], fake[:15], "pytorch_fid").items():
            found = evaluation.metrics[f"{pair}/{short}"].value
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7)


def test_a_model_of_the_real_images_is_at_no_distance(own_vae, files, monkeypatch):
    def decode(z, key=None):
        return files["test"][np.arange(len(z)) % NUM_TEST] / 255.0

    monkeypatch.setattr(own_vae, "decode", decode)
    metrics = evaluate(own_vae, NUM_TEST, block_size=NUM_TEST)[0].metrics
    for name in GENERATED:
        for suffix in ("", "_8"):
            assert abs(metrics[f"{name}_vs_test/fid{suffix}"].value) < 1e-6
            for metric in ("precision", "recall", "coverage"):
                assert metrics[f"{name}_vs_test/{metric}{suffix}"].value == 1.0
    assert metrics["train_vs_test/fid"].value > 0.01


def test_a_model_of_one_image_has_precision_but_no_recall(own_vae, files, monkeypatch):
    def decode(z, key=None):
        return np.repeat(files["test"][:1] / 255.0, len(z), axis=0)

    monkeypatch.setattr(own_vae, "decode", decode)
    metrics = evaluate(own_vae)[0].metrics
    assert metrics["samples_vs_test/precision"].value == 1.0
    assert metrics["samples_vs_test/recall"].value <= 1 / NUM_TEST


# The sets of images


@dataclasses.dataclass
class Decoded:
    z: np.ndarray
    is_drawn: bool
    images: np.ndarray


@pytest.fixture
def decoded(own_vae, monkeypatch) -> list[Decoded]:
    """Records every call of `decode`."""
    calls, decode = [], own_vae.decode

    def record(z, key=None):
        images = decode(z, key)
        calls.append(Decoded(np.asarray(z), key is not None, images))
        return images

    monkeypatch.setattr(own_vae, "decode", record)
    return calls


@pytest.fixture
def encoded(own_vae, monkeypatch) -> list[np.ndarray]:
    """Records every call of `encode`, which returns a point mass at the first four pixels."""
    calls = []

    def encode(images):
        calls.append(images)
        mean = codes_of(images)
        return DiagonalGaussian(mean, np.full_like(mean, -np.inf))

    monkeypatch.setattr(own_vae, "encode", encode)
    return calls


def codes_of(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :4].astype(np.float32) / 255


def by_set(decoded: list[Decoded], n: int) -> dict[str, Decoded]:
    """Joins the calls for each generated set; the first call, for the picture, is left out."""
    num_blocks = -(-n // BLOCK_SIZE)
    assert len(decoded) == 1 + num_blocks * len(GENERATED)
    joined = {}
    for i, name in enumerate(GENERATED):
        calls = decoded[1 + i * num_blocks :][:num_blocks]
        assert len({call.is_drawn for call in calls}) == 1
        z, images = (np.concatenate([getattr(c, f) for c in calls])[:n] for f in ("z", "images"))
        joined[name] = Decoded(z, calls[0].is_drawn, images)
    return joined


def test_draws_and_means_have_the_same_codes(own_vae, decoded):
    _, seen = evaluate(own_vae, NUM_TEST)
    sets = by_set(decoded, NUM_TEST)
    for drawn, mean in zip(GENERATED[::2], GENERATED[1::2], strict=True):
        assert sets[drawn].is_drawn and not sets[mean].is_drawn
        np.testing.assert_array_equal(sets[drawn].z, sets[mean].z)
        assert len(np.unique(sets[drawn].z, axis=0)) == NUM_TEST  # across blocks, too
        assert np.any(sets[drawn].images != sets[mean].images)
    for name, images in generated_images(seen).items():
        np.testing.assert_array_equal(images, figures.to_uint8(sets[name].images))


def test_draws_of_one_code_differ_between_blocks(own_vae, monkeypatch):
    def encode(images):
        zeros = np.zeros((len(images), 4))
        return DiagonalGaussian(zeros, zeros - np.inf)

    monkeypatch.setattr(own_vae, "encode", encode)
    images = generated_images(evaluate(own_vae, NUM_TEST)[1])
    assert len(rows(images["reconstructions"])) == NUM_TEST
    assert len(rows(images["reconstruction_means"])) == 1


def test_prior_codes_are_standard_normal(own_vae, decoded):
    n, block_size = 400, 80
    evaluate(own_vae, n, block_size=block_size)
    z = np.concatenate([call.z for call in decoded[1 : 1 + n // block_size]])
    assert z.shape == (n, 4)
    assert np.all(np.abs(z.mean(axis=0)) < 5 / np.sqrt(n))
    assert np.all(np.abs(z.var(axis=0) - 1) < 5 * np.sqrt(2 / n))


def test_aggregate_posterior_is_of_training_images_and_reconstructions_of_test_images(
    own_vae, encoded, decoded, files
):
    num_samples = 40
    _, seen = evaluate(own_vae, num_samples)
    training_images, test_images = encoded
    split = own_vae.experiment.dataset.split("train")
    assert rows(training_images) <= rows(split.take(np.arange(len(split))))
    assert len(rows(training_images)) > NUM_TEST // 2  # a random choice
    assert rows(test_images) == rows(files["test"]) and len(test_images) == NUM_TEST
    np.testing.assert_array_equal(test_images, real_images(seen)["test"])
    num_blocks = [num_samples // BLOCK_SIZE] * 2 + [-(-NUM_TEST // BLOCK_SIZE)] * 4
    starts = 1 + np.cumsum([0, *num_blocks])
    assert len(decoded) == starts[-1]
    for name, start, stop in zip(GENERATED, starts[:-1], starts[1:], strict=True):
        z = np.concatenate([call.z for call in decoded[start:stop]])
        if name.startswith("aggregate"):
            np.testing.assert_array_equal(z, codes_of(training_images))
        if name.startswith("reconstruction"):
            np.testing.assert_array_equal(z, codes_of(test_images))
    # The picture shows means of the first training images.
    assert not decoded[0].is_drawn
    np.testing.assert_array_equal(decoded[0].z, codes_of(training_images))


def test_codes_are_draws_from_the_posterior(own_vae, decoded, monkeypatch):
    mean, std = 3.0, 0.5

    def encode(images):
        shape = (len(images), 4)
        return DiagonalGaussian(np.full(shape, mean), np.full(shape, np.log(std)))

    monkeypatch.setattr(own_vae, "encode", encode)
    evaluate(own_vae, NUM_TEST)
    sets = by_set(decoded, NUM_TEST)
    first, second = (
        (sets[name].z.ravel() - mean) / std for name in ("aggregate_posterior_means", GENERATED[-1])
    )
    n = first.size
    for noise in (first, second):
        assert abs(noise.mean()) < 5 / np.sqrt(n)
        assert abs(noise.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(np.mean(first * second)) < 5 / np.sqrt(n)  # not the same noise


def test_picture_is_the_decoded_aggregate_posterior(evaluated):
    evaluation, seen = evaluated
    assert evaluation.grids.keys() == {"aggregate_posterior"}
    means = generated_images(seen)["aggregate_posterior_means"]
    np.testing.assert_array_equal(
        evaluation.grids["aggregate_posterior"], figures.image_grid(means[:100], 10)
    )


def test_both_kinds_of_preprocessing_see_the_same_images(evaluated):
    _, seen = evaluated
    assert {preprocessing for preprocessing, _ in seen} == set(PREPROCESSING)
    for (_, description), (announced, images) in seen.items():
        assert announced == len(images)
        for preprocessing in PREPROCESSING:
            np.testing.assert_array_equal(images, seen[preprocessing, description][1])


def test_the_first_images_do_not_depend_on_how_many_follow(own_vae):
    few, many = (generated_images(evaluate(own_vae, n)[1]) for n in (11, NUM_TEST))
    for name, images in few.items():
        assert len(images) == 11 and len(many[name]) == NUM_TEST
        np.testing.assert_array_equal(images, many[name][:11], err_msg=name)


def test_evaluating_twice_gives_the_same_numbers_and_pictures(own_vae, evaluated):
    """The first run computes the features of the real images, the second reads them."""
    metrics = {name: m for name, m in evaluated[0].metrics.items() if "/clean_" not in name}
    for _ in range(2):
        again, _ = evaluate(own_vae)
        assert again.metrics == metrics
        np.testing.assert_array_equal(
            again.grids["aggregate_posterior"], evaluated[0].grids["aggregate_posterior"]
        )


def test_seed_of_the_evaluation_changes_the_models_images_only(vae, data_dir, tmp_path, evaluated):
    other, seen = evaluate(make_own_vae(vae, data_dir, tmp_path / "own", seed=1))
    for name, images in generated_images(seen).items():
        assert np.any(images != generated_images(evaluated[1])[name])
    for split, images in real_images(seen).items():
        np.testing.assert_array_equal(images, real_images(evaluated[1])[split])
    assert {metric.seed for metric in other.metrics.values()} == {1}
    floor = "train_vs_test/fid"
    assert other.metrics[floor].value == evaluated[0].metrics[floor].value


def test_images_are_rounded_to_bytes_and_never_stretched(own_vae, monkeypatch):
    levels = np.linspace(0.4, 0.6, 256).reshape(1, 16, 16, 1)
    monkeypatch.setattr(own_vae, "decode", lambda z, key=None: np.repeat(levels, len(z), axis=0))
    for images in generated_images(evaluate(own_vae)[1]).values():
        assert images.dtype == np.uint8
        assert np.abs(images - 255.0 * levels).max() <= 0.5


@pytest.mark.parametrize("is_drawn", [True, False], ids=["draws", "means"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(own_vae, monkeypatch, is_drawn, value):
    decode = own_vae.decode

    def broken(z, key=None):
        images = np.array(decode(z, key))
        if is_drawn == (key is not None):
            images[-1, 3, 4] = value
        return images

    monkeypatch.setattr(own_vae, "decode", broken)
    with pytest.raises(ValueError, match="not finite.*--checkpoint=STEP"):
        evaluate(own_vae)


# Real images


def test_real_images_are_the_whole_files_in_random_order(evaluated, files):
    for split, images in real_images(evaluated[1]).items():
        assert len(images) == len(files[split])
        assert rows(images) == rows(files[split])  # the validation images are in the train file
        in_place = (images == files[split]).all(axis=(1, 2, 3))
        assert in_place.mean() < 0.2


def test_no_more_real_images_than_samples_are_taken(own_vae, evaluated):
    _, seen = evaluate(own_vae, 30)
    whole = real_images(evaluated[1])
    for split, images in real_images(seen).items():
        np.testing.assert_array_equal(images, whole[split][:30])
    assert len(real_images(seen)["train"]) == 30


def test_features_of_real_images_are_computed_once(own_vae):
    generated = 2 * NUM_SAMPLES + 4 * NUM_TEST
    for num_images in (generated + NUM_FILE + NUM_TEST, generated):
        _, seen = evaluate(own_vae)
        assert sum(len(images) for _, images in seen.values()) == num_images


# Single images


def test_features_are_those_of_the_images_that_the_functions_give(own_vae, monkeypatch):
    """Compares row by row, on the finest tap and with the first preprocessing."""
    monkeypatch.setattr(image_sets, "BLOCK_SIZE", BLOCK_SIZE)
    evaluation, _ = evaluate(own_vae, 30, preprocessing=("clean", "pytorch_fid"), allow_biased=True)
    found = evaluation.features
    assert found.space == "12 Inception features, clean preprocessing"
    z, means = image_sets.sample_means(own_vae, 30)
    images = {
        "train": image_sets.real_split(own_vae, "train", 30).take(slice(None)),
        "test": image_sets.real_split(own_vae, "test", 30).take(slice(None)),
        "sample_means": means,
        "reconstruction_means": image_sets.reconstruction_means(own_vae, 30),
    }
    for name, set_images in images.items():
        expected = features_of(set_images, 12, "clean")
        np.testing.assert_array_equal(getattr(found, name), expected, err_msg=name)
    np.testing.assert_array_equal(figures.to_uint8(own_vae.decode(z)), means)


def test_sets_are_those_that_were_measured(evaluated, vae, monkeypatch):
    monkeypatch.setattr(image_sets, "BLOCK_SIZE", BLOCK_SIZE)
    seen = generated_images(evaluated[1])
    _, means = image_sets.sample_means(vae, NUM_SAMPLES)
    np.testing.assert_array_equal(means, seen["sample_means"])
    reconstructions = image_sets.reconstruction_means(vae, NUM_SAMPLES)
    np.testing.assert_array_equal(reconstructions, seen["reconstruction_means"])


def test_first_samples_do_not_depend_on_how_many_follow(vae):
    few, many = (image_sets.sample_means(vae, n) for n in (3, 600))  # of blocks of 500
    for part, whole in zip(few, many, strict=True):
        np.testing.assert_array_equal(part, whole[:3])
        assert len(part) == 3 and len(whole) == 600
    assert len(np.unique(many[0], axis=0)) == 600


def test_rows_of_real_splits_are_those_of_the_file(vae, files):
    for split, images in files.items():
        part = image_sets.real_split(vae, split, 15)
        np.testing.assert_array_equal(part.take(slice(None)), images[part.indices])
        assert len(set(part.indices)) == 15


# Few images


def test_frechet_distance_of_few_images_is_left_out_and_reported_once(own_vae):
    evaluation, _ = evaluate(own_vae, TAPS[0], preprocessing=PREPROCESSING)
    names = expected_names(("", "_8")) | expected_names(("", "_8"), "clean_")
    missing = {name for name in names if name.split("/")[1] in ("fid", "clean_fid")}
    assert evaluation.metrics.keys() == names - missing
    assert len(evaluation.notes) == 2
    for note, name in zip(evaluation.notes, ("fid", "clean_fid"), strict=True):
        assert f"`{name}`" in note and f"{TAPS[0]} images" in note
        assert "--num_samples" in note and "--allow_biased_fid" in note


def test_one_image_more_than_features_is_enough(own_vae):
    evaluation, _ = evaluate(own_vae, TAPS[0] + 1)
    assert evaluation.metrics.keys() == expected_names(("", "_8"))
    assert evaluation.notes == []


def test_only_the_comparison_with_few_images_is_left_out(own_vae):
    taps = (40, 8)  # between the numbers of test and train images
    evaluation, _ = evaluate(own_vae, taps=taps)
    with_distance = {name.split("/")[0] for name in evaluation.metrics if name.endswith("/fid")}
    assert with_distance == {"samples_vs_train", "sample_means_vs_train"}
    assert len(evaluation.notes) == 1


def test_biased_distance_is_computed_and_called_biased(own_vae):
    evaluation, seen = evaluate(own_vae, TAPS[0], allow_biased=True)
    assert evaluation.metrics.keys() == expected_names(("", "_8"))
    assert evaluation.notes == []
    for name, metric in evaluation.metrics.items():
        assert ("biased" in metric.description) == metric.is_biased == name.endswith("/fid"), name
    real, fake = real_images(seen)["test"], generated_images(seen)["samples"]
    x, y = (features_of(images, TAPS[0], "pytorch_fid") for images in (real, fake))
    found = evaluation.metrics["samples_vs_test/fid"].value
    np.testing.assert_allclose(found, frechet(x, y), rtol=1e-4)


def test_test_set_of_fewer_images_than_splits_is_evaluated(own_vae, files, tmp_path):
    """Only the score of its reconstructions is missing."""
    np.save(tmp_path / "own" / "tiny" / "test_images.npy", files["test"][:8])
    evaluation, _ = evaluate(own_vae)
    assert "samples_vs_test/kid" in evaluation.metrics


# Options


@pytest.mark.parametrize("num_samples", [0, 10, 50_000])
def test_numbers_of_samples_that_are_accepted(num_samples):
    assert Options(num_samples).num_samples == num_samples


@pytest.mark.parametrize("num_samples", [-1, 1, 5, 9, 10.5, "10", None, False])
def test_numbers_of_samples_that_are_refused(num_samples):
    with pytest.raises(
        ValueError, match=f"num_samples = {num_samples!r} must be .* at least 10, or 0"
    ):
        Options(num_samples)


@pytest.mark.parametrize("preprocessing", [("legacy",), ("clean", "legacy"), ()])
def test_preprocessing_that_is_refused(preprocessing):
    with pytest.raises(ValueError, match="must name at least one of pytorch_fid, clean"):
        Options(preprocessing=preprocessing)


def test_published_protocol_is_the_default():
    options = Options()
    assert (options.num_samples, image_sets.NUM_SAMPLES_TEST) == (50_000, 10_000)
    assert options.preprocessing == ("pytorch_fid",) and not options.allow_biased


# Weights


@pytest.fixture(autouse=True)
def requests(monkeypatch) -> list[str]:
    """Records the requested addresses; nothing leaves the machine."""
    addresses = []

    def refuse(url, *args, **kwargs):
        addresses.append(url)
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return addresses


def zero_weights(last: str) -> InceptionWeights:
    """Returns all layers up to `last`, with zeros that take no memory."""
    names = list(LAYER_SHAPES)
    return InceptionWeights(
        {
            name: tuple(
                np.broadcast_to(np.float32(0), shape)
                for shape in (LAYER_SHAPES[name], LAYER_SHAPES[name][-1:])
            )
            for name in names[: names.index(last) + 1]
        }
    )


def test_without_samples_no_weights_are_looked_for(own_vae, requests, monkeypatch):
    monkeypatch.delattr(inception_weights, "find_or_download")
    weights, (note,) = sample_quality.find_weights(own_vae, Options(0))
    assert weights is None and "--num_samples=0" in note
    assert requests == []


def test_unavailable_weights_are_reported_with_remedies(own_vae, requests):
    weights, (note,) = sample_quality.find_weights(own_vae, Options())
    assert weights is None
    assert requests == list(inception_weights.URLS)
    assert note.startswith("Missing: ") and "`fid`, `kid`" in note
    for remedy in (
        *inception_weights.URLS,
        "--inception_weights=FILE",
        own_vae.experiment.dataset.data_dir,
    ):
        assert remedy in note


@pytest.mark.parametrize("given", ["flag", "data_dir"])
def test_partial_weights_are_used_and_missing_metrics_are_reported(
    own_vae, tmp_path, monkeypatch, requests, given
):
    found = zero_weights("mixed_7_tower_2_conv")
    monkeypatch.setattr(inception_weights, "_read", lambda path: found)  # its file is large
    directory = tmp_path / "own" / "inception" if given == "data_dir" else tmp_path
    directory.mkdir(exist_ok=True)
    (directory / "weights.npz").touch()
    path = None if given == "data_dir" else str(directory / "weights.npz")
    weights, (note,) = sample_quality.find_weights(own_vae, Options(inception_weights=path))
    assert weights is found and requests == []
    for part in ("`fid`", "Inception score", "--inception_weights=FILE", "768 features"):
        assert part in note
    for url in inception_weights.URLS:
        assert url in note


def test_with_full_weights_nothing_is_missing(own_vae, monkeypatch):
    found = zero_weights("softmax")
    monkeypatch.setattr(inception_weights, "find_or_download", lambda *_: found)
    assert sample_quality.find_weights(own_vae, Options()) == (found, [])


def test_weights_that_end_before_the_first_tap_are_reported_before_the_evaluation(
    own_vae, tmp_path
):
    path = tmp_path / "stem.npz"
    inception_weights.save(zero_weights("conv_2"), path)
    weights, (note,) = sample_quality.find_weights(own_vae, Options(inception_weights=str(path)))
    assert weights is None
    for part in ("Missing: all metrics", "768", "--inception_weights=FILE"):
        assert part in note


@pytest.mark.parametrize("given", ["flag", "data_dir", "home"])
def test_damaged_file_is_an_error(own_vae, tmp_path, monkeypatch, requests, given):
    damaged = tmp_path / "own" / "inception" / "weights.npz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"PK damaged")
    if given == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
        own_vae = changed_vae(own_vae, "~/own")
    options = Options(inception_weights=str(damaged) if given == "flag" else None)
    with pytest.raises(ValueError, match=f"{damaged}: the file is damaged"):
        sample_quality.find_weights(own_vae, options)
    assert requests == []


def test_samples_at_a_temperature_are_sets_of_their_own(evaluated, vae, data_dir, tmp_path):
    """Their noise is the same, scaled; all other sets are those of temperature 1."""
    own_vae = changed_vae(make_own_vae(vae, data_dir, tmp_path), temperature=0.5)
    evaluation, seen = evaluate(own_vae)
    assert {f"{name}_vs_{split}/kid" for name in TEMPERED for split in ("test", "train")} <= (
        evaluation.metrics.keys()
    )
    key = next(image_sets._block_keys(vae, stream("eval/prior", 0), 1))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_sets, "BLOCK_SIZE", BLOCK_SIZE)
        z, _ = image_sets._prior_block(own_vae, key, draw=False)
    expected = figures.to_uint8(own_vae.decode(0.5 * z))
    tempered = seen["pytorch_fid", "tempered sample means"][1][:BLOCK_SIZE]
    np.testing.assert_allclose(tempered.astype(float), expected, atol=1.0)
    assert np.any(tempered != seen["pytorch_fid", "sample means"][1][:BLOCK_SIZE])
