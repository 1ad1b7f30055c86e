"""Tests of vae_jax/gallery: which images are the worst, and which attributes they have."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from tests.conftest import (
    NUM_TEST,
    NUM_TRAIN,
    NUM_VALIDATION,
    changed_vae,
    make_config,
    smooth_images,
)
from vae_jax import evaluation, files, gallery
from vae_jax.data import Split, class_name, sources
from vae_jax.experiment import build
from vae_jax.gallery import measured, reconstructions, samples
from vae_jax.gallery.failures import choose
from vae_jax.gallery.ranking import Ranking
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.inference.image_sets import Features, NotFiniteError
from vae_jax.metrics import attributes as measures
from vae_jax.recording import figures
from vae_jax.runtime import memory

NUM_SAMPLES = 60
NUM_FILE = NUM_TRAIN + NUM_VALIDATION


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(samples, "NUM_SAMPLES", NUM_SAMPLES)


@pytest.fixture(scope="module")
def test_split(vae) -> Split:
    return vae.experiment.dataset.split("test")


@pytest.fixture(scope="module")
def galleries(vae, test_split) -> dict[str, gallery.FailureSet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "NUM_SAMPLES", NUM_SAMPLES)
        return by_name(gallery.create(vae, test_split, 7))


def json_of(failures: gallery.FailureSet) -> str:
    return files.to_json(gallery.to_json(failures))


def by_name(sets) -> dict[str, gallery.FailureSet]:
    return {failures.ranking.name: failures for failures in sets}


def initial_vae(data_dir, num_channels: int = 1, **overrides) -> TrainedVAE:
    """A model that was never trained."""
    run = build(make_config(data_dir, **overrides), (16, 16, num_channels))
    return TrainedVAE(run, run.create_state(jax.random.key(0)).params)


def make_data(directory, num_channels: int = 1, num_train: int = NUM_FILE, num_classes: int = 0):
    """Makes a directory of arrays like conftest's, with other sizes and with labels."""
    (directory / "tiny").mkdir(parents=True)
    for name, n, seed in (("train", num_train, 0), ("test", NUM_TEST, 1)):
        images = smooth_images(n, seed, num_channels)
        np.save(directory / "tiny" / f"{name}_images.npy", images)
        if num_classes:
            labels = (np.arange(n) % num_classes).astype(np.uint8)
            np.save(directory / "tiny" / f"{name}_labels.npy", labels)
    return directory


# Reconstructions


def test_distortions_are_those_whose_mean_is_reported(galleries, vae, test_split):
    ranking = galleries["worst_reconstructions"].ranking
    metrics, *_ = evaluation.evaluate(vae, test_split)
    np.testing.assert_allclose(ranking.values.mean(), metrics["distortion"].value, rtol=1e-6)
    assert len(ranking.values) == NUM_TEST


def test_failures_are_the_worst_in_order(galleries):
    for name, failures in galleries.items():
        values = failures.ranking.values
        expected = np.sort(values) if name == "worst_samples" else -np.sort(-values)
        np.testing.assert_array_equal([f.score for f in failures.failures], expected[:7])
        np.testing.assert_array_equal(failures.rows, [f.row for f in failures.failures])
        assert values[failures.rows[0]] == expected[0]


def test_images_are_found_again_in_the_file(galleries, vae):
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/test_images.npy")
    for failure in galleries["worst_reconstructions"].failures:
        original, reconstruction = failure.pair
        np.testing.assert_array_equal(original, file[failure.about["image"]])
        expected = figures.to_uint8(vae.reconstruct(original[None]))[0]
        assert np.abs(reconstruction.astype(int) - expected).max() <= 1


def test_each_distortion_is_that_of_its_image(galleries, vae):
    """Order and noise are those of the evaluation; the noise depends on the position."""
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/test_images.npy")
    ranking = galleries["worst_reconstructions"].ranking
    images = file[[ranking.describe(row)["image"] for row in range(NUM_TEST)]]
    key = jax.random.split(jax.random.key(vae.experiment.evaluation.seed), 3)[0]
    expected = vae.elbo_terms(images, key).distortion
    np.testing.assert_allclose(ranking.values, expected, rtol=1e-5)


@pytest.mark.parametrize("num_failures", [1, NUM_TEST, 100])
def test_there_are_no_more_failures_than_candidates(vae, test_split, num_failures):
    galleries = by_name(gallery.create(vae, test_split, num_failures))
    worst_images, worst_samples = galleries["worst_reconstructions"], galleries["worst_samples"]
    assert len(worst_images.failures) == min(num_failures, NUM_TEST)
    assert len(worst_samples.failures) == min(num_failures, NUM_SAMPLES)
    for failures in galleries.values():
        assert sum(len(group.rows) for group in failures.groups) == len(failures.failures)
        assert gallery.draw(failures).dtype == np.uint8


def test_number_of_candidates_is_limited(vae, test_split, galleries, monkeypatch):
    monkeypatch.setattr(reconstructions, "MAX_NUM_IMAGES", 9)
    few = by_name(gallery.create(vae, test_split, 3))["worst_reconstructions"].ranking
    whole = galleries["worst_reconstructions"].ranking
    assert len(few.values) == 9
    np.testing.assert_allclose(few.values, whole.values[:9], rtol=1e-5)


@pytest.mark.parametrize(("split", "n"), [("validation", NUM_VALIDATION), ("train", NUM_TRAIN)])
def test_other_splits_have_galleries(vae, split, n):
    galleries = by_name(gallery.create(vae, vae.experiment.dataset.split(split), 5))
    ranking = galleries["worst_reconstructions"].ranking
    assert ranking.candidates == f"{split} images" and len(ranking.values) == n
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/train_images.npy")
    for failure in galleries["worst_reconstructions"].failures:
        np.testing.assert_array_equal(failure.pair[0], file[failure.about["image"]])


@pytest.mark.parametrize("binarize", [False, True])
def test_bernoulli_models_have_a_gallery_of_avoidable_distortion(data_dir, test_split, binarize):
    vae = initial_vae(data_dir, likelihood__name="bernoulli", likelihood__binarize=binarize)
    galleries = by_name(gallery.create(vae, test_split, 5))
    assert list(galleries) == ["worst_reconstructions", "worst_excess", "worst_samples"]
    ranking = galleries["worst_excess"].ranking
    file = np.load(data_dir / "tiny" / "test_images.npy")
    images = file[[ranking.describe(row)["image"] for row in range(NUM_TEST)]]
    if not binarize:  # a binarised image is drawn, and its reconstruction depends on the draw
        expected = measures.excess_distortion(images / 255.0, vae.reconstruct(images))
        np.testing.assert_allclose(ranking.values, expected, rtol=1e-4)
    names = {a.name for a in ranking.attributes}
    distortion_names = {a.name for a in galleries["worst_reconstructions"].ranking.attributes}
    assert distortion_names - names == {"grey_entropy", "draw"}


def test_attributes_of_reconstructions(galleries, vae):
    ranking = galleries["worst_reconstructions"].ranking
    values = {a.name: a.values for a in ranking.attributes}
    assert values.keys() == {
        *("fine_power_lost", "thin_structures", "contrast", "saturated"),
        *("rate", "latent_distance", "draw"),
    }
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/test_images.npy")
    images = file[[ranking.describe(row)["image"] for row in range(NUM_TEST)]]
    np.testing.assert_allclose(values["contrast"], measures.contrast(images / 255.0), rtol=1e-12)
    posterior = vae.encode(images)
    rate = np.asarray(posterior.kl_to_standard_normal()).sum(axis=1)
    np.testing.assert_allclose(values["rate"], rate, rtol=1e-4)
    codes = posterior.mean.astype(np.float64)
    distances = np.sort(np.linalg.norm(codes[:, None] - codes[None], axis=-1), axis=1)[:, 10]
    expected = distances / np.median(distances)
    np.testing.assert_allclose(values["latent_distance"], expected, rtol=1e-4)
    at_mean = -vae.log_prob(images, posterior.mean)
    np.testing.assert_allclose(ranking.values - values["draw"], at_mean, rtol=1e-5)
    x, y = images / 255.0, vae.reconstruct(images)
    lost = measures.fine_power(x) - measures.fine_power(y)
    expected = lost / measures.fine_power(x).mean()
    np.testing.assert_allclose(values["fine_power_lost"], expected, rtol=1e-4, atol=1e-6)


# Labels


def test_labels_give_attributes_and_names(tmp_path):
    vae = initial_vae(make_data(tmp_path, num_classes=3))
    split = vae.experiment.dataset.split("test")
    galleries = by_name(gallery.create(vae, split, 5))
    for name, attributes in (
        ("worst_reconstructions", {"label_mix", "class_share"}),
        ("worst_samples", {"blend"}),
    ):
        failures = galleries[name]
        assert attributes < {a.name for a in failures.ranking.attributes}
        for failure in failures.failures:
            image = failure.about["nearest image" if name == "worst_samples" else "image"]
            assert failure.about["class"] == f"class {image % 3}"


def test_label_mix_counts_neighbours_of_other_classes():
    codes = np.arange(24.0)[:, None] * np.ones((1, 2))
    labels = np.repeat([0, 1], 12).astype(np.uint8)
    found = measured.reconstruction_attributes(
        {
            **measured.measure_images(smooth_images(24)),
            **measured.measure_pairs(smooth_images(24), lambda rows: smooth_images(24)[rows] / 255),
        },
        codes,
        np.ones(24),
        labels,
    )
    (mix,) = (a for a in found if a.name == "label_mix")
    assert mix.values[0] == 0  # codes 1 to 10 are of its class
    assert mix.values[11] == 5  # of codes 6 to 16, the five behind the border
    assert mix.unit == "of 10" and mix.limit == 5


@pytest.mark.parametrize(
    ("dataset", "label", "name"),
    [("fashion_mnist", 8, "bag"), ("cifar10", 0, "airplane"), ("own", 3, "class 3")],
)
def test_class_names(dataset, label, name):
    assert class_name(dataset, label) == name


def test_ten_classes_have_names_and_more_have_numbers():
    named = (sources.REGISTRY[name].class_names for name in ("fashion_mnist", "cifar10"))
    assert {len(names) for names in named} == {10}
    assert class_name("cifar10", 10) == "class 10"


# Samples


def test_samples_are_ranked_by_realism_in_pixels(galleries, vae):
    failures = galleries["worst_samples"]
    _, images = image_sets.sample_means(vae, NUM_SAMPLES)
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/train_images.npy")
    x, y = (i.reshape(len(i), -1) / 255.0 for i in (images, file))
    distance = np.linalg.norm(x[:, None] - y[None], axis=-1)
    radii = np.sort(np.linalg.norm(y[:, None] - y[None], axis=-1), axis=1)[:, 3]
    kept = radii <= np.median(radii)
    expected = (radii[kept] / distance[:, kept]).max(axis=1)
    np.testing.assert_allclose(failures.ranking.values, expected, rtol=1e-6)
    for failure in failures.failures:
        sample, nearest = failure.pair
        np.testing.assert_array_equal(sample, images[failure.about["sample"]])
        assert failure.about["nearest image"] == np.argmin(distance[failure.row])
        np.testing.assert_array_equal(nearest, file[failure.about["nearest image"]])
        expected = distance[failure.row].min()
        assert failure.about["distance"] == pytest.approx(expected, rel=1e-6)


def test_prior_hole_is_a_difference_of_log_densities(galleries, vae):
    z, _ = image_sets.sample_means(vae, NUM_SAMPLES)
    order = np.random.default_rng(0).permutation(NUM_FILE)
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/train_images.npy")
    posterior = vae.encode(file[order])
    log_p = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1)
    log_q = [np.log(np.mean(np.exp(posterior.log_prob(point)))) for point in z]
    ranking = galleries["worst_samples"].ranking
    (hole,) = (a for a in ranking.attributes if a.name == "prior_hole")
    np.testing.assert_allclose(hole.values, log_p - log_q, rtol=1e-3, atol=1e-3)


def test_fine_power_of_samples_is_in_units_of_the_data(galleries, vae):
    _, images = image_sets.sample_means(vae, NUM_SAMPLES)
    file = np.load(f"{vae.experiment.dataset.data_dir}/tiny/train_images.npy")
    expected = measures.fine_power(images / 255.0) / measures.fine_power(file / 255.0).mean()
    ranking = galleries["worst_samples"].ranking
    (fine,) = (a for a in ranking.attributes if a.name == "fine_power")
    np.testing.assert_allclose(fine.values, expected, rtol=1e-9)
    assert fine.is_low


def test_training_images_too_few_for_neighbours_give_no_gallery_of_samples(tmp_path):
    vae = initial_vae(make_data(tmp_path, num_train=3), data__validation_size=1)
    split = vae.experiment.dataset.split("test")
    assert list(by_name(gallery.create(vae, split, 5))) == ["worst_reconstructions"]
    assert gallery.missing(vae) == [
        "Missing: `worst_samples`: needs at least 4 images, the train split has 3."
    ]


def test_one_image_is_ranked(vae, test_split):
    one = dataclasses.replace(test_split, indices=test_split.indices[:1])
    (failure,) = by_name(gallery.create(vae, one, 5))["worst_reconstructions"].failures
    assert failure.about == {"image": 0} and np.isfinite(failure.score)
    assert gallery.missing(vae) == []


def test_fewer_large_images_are_compared(vae, test_split, monkeypatch):
    """There is room for 6 images as float64, and for 48 as uint8."""
    monkeypatch.setattr(memory, "HOST_BYTES", 6 * memory.COMPARED * 16 * 16)
    galleries = by_name(gallery.create(vae, test_split, 5))
    assert len(galleries["worst_samples"].ranking.values) == 6
    assert "the nearest of 6 training images" in galleries["worst_samples"].ranking.description
    assert len(galleries["worst_reconstructions"].ranking.values) == NUM_TEST


# Features


def project(images: np.ndarray) -> np.ndarray:
    """A cheap stand-in for the network, float32 [N, 6]."""
    pixels = images.reshape(len(images), -1) / 255.0
    projection = np.random.default_rng(0).normal(size=(pixels.shape[1], 6))
    return (pixels**2 @ projection).astype(np.float32)


@pytest.fixture(scope="module")
def features(vae) -> Features:
    real = {s: image_sets.real_split(vae, s, 1000).take(slice(None)) for s in ("train", "test")}
    return Features(
        "6 features",
        project(real["train"]),
        project(real["test"]),
        project(image_sets.sample_means(vae, 40)[1]),
        project(image_sets.reconstruction_means(vae, 1000)),
    )


def test_with_features_there_is_a_perceptual_ranking(vae, test_split, features):
    galleries = by_name(gallery.create(vae, test_split, 6, features))
    assert list(galleries) == ["worst_reconstructions", "worst_perceptual", "worst_samples"]
    failures = galleries["worst_perceptual"]
    expected = np.linalg.norm(features.test - features.reconstruction_means, axis=1)
    np.testing.assert_allclose(failures.ranking.values, expected, rtol=1e-5)
    assert "6 features" in failures.ranking.description
    for failure in failures.failures:
        x, y = (project(image[None])[0] for image in failure.pair)
        assert np.linalg.norm(x - y) == pytest.approx(failure.score, rel=1e-5)


def test_change_by_the_draw_of_a_reconstruction_is_measured(vae, test_split, features):
    failures = by_name(gallery.create(vae, test_split, 6, features))["worst_perceptual"]
    (draw,) = (a for a in failures.ranking.attributes if a.name == "draw")
    for failure in failures.failures:
        original, at_draw = failure.pair
        difference = at_draw / 255.0 - vae.reconstruct(original[None])[0]
        expected = np.sqrt(np.mean(difference**2))
        assert draw.values[failure.row] == pytest.approx(expected, rel=1e-3)


def test_with_features_samples_are_ranked_in_them(vae, test_split, features):
    failures = by_name(gallery.create(vae, test_split, 6, features))["worst_samples"]
    assert len(failures.ranking.values) == 40  # only so many have features
    distance = np.linalg.norm(features.sample_means[:, None] - features.train[None], axis=-1)
    for failure in failures.failures:
        sample, nearest = (project(image[None])[0] for image in failure.pair)
        np.testing.assert_allclose(sample, features.sample_means[failure.row], rtol=1e-5)
        expected = distance[failure.row].min()
        assert np.linalg.norm(sample - nearest) == pytest.approx(expected, rel=1e-5)
        assert failure.about["distance"] == pytest.approx(expected, rel=1e-5)


def test_features_of_a_part_of_the_test_images_are_those_of_the_first(vae, test_split, features):
    part = dataclasses.replace(
        features,
        test=features.test[:8],
        reconstruction_means=project(image_sets.reconstruction_means(vae, 8)),
    )
    failures = by_name(gallery.create(vae, test_split, 3, part))["worst_perceptual"]
    assert len(failures.ranking.values) == 8
    for failure in failures.failures:
        x = project(failure.pair[0][None])[0]
        np.testing.assert_allclose(x, features.test[failure.row], rtol=1e-5)


# All together


def test_colour_images_have_galleries(tmp_path):
    vae = initial_vae(make_data(tmp_path, num_channels=3), num_channels=3)
    split = vae.experiment.dataset.split("test")
    for failures in gallery.create(vae, split, 5):
        assert failures.failures[0].pair[0].shape == (16, 16, 3)
        (colour,) = (a for a in failures.ranking.attributes if a.name == "colour")
        assert np.all(colour.values > 0)  # an attribute that grey images do not have
        assert gallery.draw(failures).shape[-1] == 3
        json_of(failures)


def test_second_call_gives_the_same(vae, test_split, galleries):
    for failures in gallery.create(vae, test_split, 7):
        first = galleries[failures.ranking.name]
        assert json_of(failures) == json_of(first)
        assert gallery.markdown([gallery.describe(failures)]) == gallery.markdown(
            [gallery.describe(first)]
        )
        np.testing.assert_array_equal(gallery.draw(failures), gallery.draw(first))


def test_without_failures_nothing_is_computed(vae, test_split, monkeypatch):
    monkeypatch.setattr(vae, "encode", None)  # must not be called
    assert gallery.create(vae, test_split, 0) == []


@pytest.mark.parametrize("num_failures", [-1, 101, 2.5, None])
def test_numbers_of_failures_that_are_refused(vae, test_split, num_failures):
    with pytest.raises(ValueError, match=f"num_failures = {num_failures}: must be .* at most 100"):
        gallery.create(vae, test_split, num_failures)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_reconstructions_that_are_not_finite_are_an_error(vae, test_split, monkeypatch, value):
    decode = vae.decode

    def broken(z, key=None):
        images = np.array(decode(z, key))
        images[0, 0, 0] = value
        return images

    monkeypatch.setattr(vae, "decode", broken)
    with pytest.raises(NotFiniteError, match="reconstructions are not all finite.*--checkpoint"):
        gallery.create(vae, test_split, 5)


def test_the_only_images_with_lines_are_found_and_explained(tmp_path):
    """30 of 300 images have lines, which a model of smooth images cannot reconstruct."""
    images = smooth_images(300) // 2
    lined = np.arange(0, 300, 10)
    images[lined, 2:14:4] = 255
    ranking = make_ranking(images, scores=measured.measure_images(images)["thin_structures"])
    failures = choose(ranking, 8)
    assert set(failures.rows) <= set(lined)
    (group,) = failures.groups
    assert group.attribute.name == "thin_structures" and len(group.rows) == 8
    assert "rate" not in {a.name for a in failures.offered}


def make_ranking(images: np.ndarray, scores: np.ndarray) -> Ranking:
    """Ranks images whose reconstructions are uniformly grey."""
    n = len(images)
    attributes = measured.reconstruction_attributes(
        {
            **measured.measure_images(images),
            **measured.measure_pairs(images, lambda rows: np.full(images[rows].shape, 0.5)),
        },
        np.random.default_rng(0).normal(size=(n, 2)),
        np.random.default_rng(1).normal(size=n),
        None,
    )
    return Ranking(
        name="worst",
        heading="Worst",
        candidates="images",
        sides=("image", "image"),
        description="",
        score="score",
        unit="",
        values=scores,
        attributes=[a for a in attributes if a.name != "fine_power_lost"],  # lines lose it, too
        describe=lambda row: {"image": int(row)},
        show=lambda rows: [(images[row], images[row]) for row in rows],
    )


def test_evaluation_of_a_copy_elsewhere_is_the_same(vae, data_dir, tmp_path, galleries):
    """Rows and pictures depend on the content of the data, not on its location."""
    shutil.copytree(data_dir / "tiny", tmp_path / "tiny")
    other = changed_vae(vae, tmp_path)
    for failures in gallery.create(other, other.experiment.dataset.split("test"), 7):
        assert json_of(failures) == json_of(galleries[failures.ranking.name])
