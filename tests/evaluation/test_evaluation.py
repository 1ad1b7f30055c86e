"""Tests of vae_jax/evaluation/ on the trained run."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import vae_jax
from tests.conftest import NUM_TEST, TINY, changed_vae, make_experiment, smooth_images
from vae_jax import evaluation
from vae_jax.data import Split
from vae_jax.evaluation import bounds, grids
from vae_jax.inference import TrainedVAE, create_steps
from vae_jax.likelihoods import Gaussian
from vae_jax.objectives import ElboTerms
from vae_jax.runtime import sharding

NUM_IW_IMAGES = TINY["eval.num_iw_images"]
LATENT_DIMS = 4
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def test_split(vae) -> Split:
    return vae.experiment.dataset.split("test")


@pytest.fixture(scope="module")
def images(test_split) -> np.ndarray:
    """The test images in the fixed random order of the evaluation."""
    return test_split.take(np.random.default_rng(0).permutation(len(test_split)))


@pytest.fixture(scope="module")
def evaluated(vae, test_split):
    return evaluation.evaluate(vae, test_split)


@pytest.fixture(scope="module")
def metrics(evaluated):
    return evaluated[0]


# What is reported


def test_every_metric_says_what_is_needed_to_compare_it(metrics, vae):
    assert metrics.keys() == {
        *("elbo", "rate", "distortion", "bits_per_dim", "iw_elbo", "iw_bits_per_dim"),
        *("active_units", "mutual_information", "psnr", "ssim"),
    }
    for name, metric in metrics.items():
        assert math.isfinite(metric.value), name
        assert metric.key == metric.name == name
        assert metric.image_set == "test" and metric.seed == vae.experiment.evaluation.seed
        assert metric.checkpoint_step == vae.step
        part = vae.experiment.evaluation.num_iw_images if name.startswith("iw_") else NUM_TEST
        assert metric.num_images == part, name
        assert metric.description == metric.protocol != ""
    units = {name: metric.unit for name, metric in metrics.items()}
    assert units == {
        **dict.fromkeys(("elbo", "rate", "distortion", "iw_elbo", "mutual_information"), "nats"),
        **dict.fromkeys(("bits_per_dim", "iw_bits_per_dim"), "bits"),
        "active_units": f"of {LATENT_DIMS}",
        "psnr": "dB",
        "ssim": "",
    }


def test_rate_to_a_standard_normal_needs_no_estimate(metrics):
    assert metrics["rate"].protocol == "KL(q(z|x), p(z)) in closed form"


def test_elbo_is_minus_rate_minus_distortion(metrics):
    total = metrics["rate"].value + metrics["distortion"].value
    np.testing.assert_allclose(metrics["elbo"].value, -total, rtol=1e-6)


def test_elbo_is_the_mean_over_the_whole_split_with_its_standard_error(metrics, vae, images):
    key = jax.random.split(jax.random.key(vae.experiment.evaluation.seed), 3)[0]
    values = vae.elbo(images, key).astype(np.float64)
    np.testing.assert_allclose(metrics["elbo"].value, values.mean(), rtol=1e-9)
    error = values.std(ddof=1) / np.sqrt(NUM_TEST)
    np.testing.assert_allclose(metrics["elbo"].standard_error, error, rtol=1e-9)


@pytest.mark.parametrize("bound", ["elbo", "iw_elbo"])
def test_bits_per_dim_is_the_bound_in_other_units(metrics, bound):
    bits = metrics["iw_bits_per_dim" if bound == "iw_elbo" else "bits_per_dim"]
    factor = 1.0 / (16 * 16 * np.log(2.0))
    np.testing.assert_allclose(bits.value, -metrics[bound].value * factor, rtol=1e-6)
    error = metrics[bound].standard_error * factor
    np.testing.assert_allclose(bits.standard_error, error, rtol=1e-6)


def test_tighter_bound_is_higher(vae, images):
    """Both are means over the same images, so their difference has its own standard error."""
    elbo = np.mean([vae.elbo(images, jax.random.key(i)) for i in range(8)], axis=0)
    difference = vae.iw_elbo(images, KEY, num_samples=32).astype(np.float64) - elbo
    assert difference.mean() > -3 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert difference.mean() > 0


def test_bound_of_one_sample_has_the_elbo_as_its_mean(vae, images):
    """At K = 1 only an estimate replaces the closed-form rate, with the same expectation."""
    single = np.array([vae.iw_elbo(images, jax.random.key(i), num_samples=1) for i in range(40)])
    elbo = np.array([vae.elbo(images, jax.random.key(100 + i)) for i in range(40)])
    single, elbo = single.mean(axis=1, dtype=np.float64), elbo.mean(axis=1, dtype=np.float64)
    error = np.sqrt((single.var(ddof=1) + elbo.var(ddof=1)) / 40)
    assert abs(single.mean() - elbo.mean()) < 5 * error


def test_active_units_and_information_lie_in_their_ranges(metrics):
    assert isinstance(metrics["active_units"].value, int)
    assert 0 <= metrics["active_units"].value <= LATENT_DIMS
    information = metrics["mutual_information"]
    assert -5 * information.standard_error <= information.value <= np.log(NUM_TEST)


def test_reconstruction_metrics_are_those_of_the_mean_at_the_posterior_mean(metrics, vae, images):
    x = images.astype(np.float64) / 255.0
    mse = np.mean((x - vae.reconstruct(images)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(metrics["psnr"].value, np.mean(-10 * np.log10(mse)), rtol=1e-5)
    assert -1.0 <= metrics["ssim"].value <= 1.0


def test_evaluating_twice_gives_the_same_numbers_and_pictures(evaluated, vae, test_split):
    metrics, grids, _ = evaluation.evaluate(vae, test_split)
    assert metrics == evaluated[0]
    for name, grid in grids.items():
        np.testing.assert_array_equal(grid, evaluated[1][name], err_msg=name)


def test_evaluation_compiles_each_function_once(evaluated, vae, trained_workdir, test_split):
    fresh = vae_jax.load(trained_workdir)
    evaluation.evaluate(fresh, test_split)
    for name in ("encode", "decode_mean", "decode_sample", "elbo_terms", "log_weights"):
        assert getattr(fresh._steps, name)._cache_size() == 1, name


def test_seed_of_the_evaluation_changes_the_noise_only(vae, test_split, metrics):
    changed, *_ = evaluation.evaluate(changed_vae(vae, seed=1), test_split)
    assert changed["elbo"].seed == 1
    assert changed["elbo"].value != metrics["elbo"].value
    assert changed["rate"].value == metrics["rate"].value
    assert changed["psnr"].value == metrics["psnr"].value


@pytest.mark.parametrize("num_iw_images", [0, NUM_IW_IMAGES, 1000])
def test_iw_elbo_is_the_elbo_of_all_images_plus_the_gain_on_a_part(
    vae, test_split, images, num_iw_images
):
    """If the part is the whole split, this is the mean of the bound itself."""
    other = changed_vae(vae, num_iw_images=num_iw_images)
    plan = other.experiment.evaluation
    metric = evaluation.evaluate(other, test_split)[0]["iw_elbo"]
    elbo_key, iw_key, _ = jax.random.split(jax.random.key(plan.seed), 3)
    elbo = vae.elbo(images, elbo_key).astype(np.float64)
    bound = vae.iw_elbo(images, iw_key, plan.num_iw_samples).astype(np.float64)
    n = num_iw_images if 0 < num_iw_images < NUM_TEST else NUM_TEST
    np.testing.assert_allclose(metric.value, elbo.mean() + (bound - elbo)[:n].mean(), rtol=1e-6)
    assert metric.num_images == n
    if n == NUM_TEST:
        np.testing.assert_allclose(metric.value, bound.mean(), rtol=1e-6)
        error = bound.std(ddof=1) / np.sqrt(NUM_TEST)
        np.testing.assert_allclose(metric.standard_error, error, rtol=1e-3)
    else:
        assert f"random {n}" in metric.protocol


# The number does not depend on how it was computed


def make_vae(vae, num_devices: int, batch_size: int) -> TrainedVAE:
    mesh = sharding.create_mesh(jax.local_devices()[:num_devices])
    params = jax.device_put(jax.device_get(vae.params), sharding.replicated(mesh))
    run = changed_vae(vae, batch_size=batch_size).experiment
    return TrainedVAE(run, params, vae.step, create_steps(run, mesh))


@pytest.mark.parametrize(
    ("num_devices", "batch_size"), [(1, 8), (2, 6), (1, NUM_TEST)], ids=["device", "batch", "both"]
)
def test_terms_of_each_image_depend_on_neither_batches_nor_devices(
    vae, images, num_devices, batch_size
):
    other = make_vae(vae, num_devices, batch_size)
    terms, expected = other.elbo_terms(images, KEY), vae.elbo_terms(images, KEY)
    np.testing.assert_allclose(terms.distortion, expected.distortion, rtol=1e-5)
    np.testing.assert_allclose(terms.rate_per_dim, expected.rate_per_dim, rtol=1e-4, atol=1e-5)
    bounds = (v.iw_elbo(images, KEY, num_samples=3) for v in (other, vae))
    np.testing.assert_allclose(*bounds, rtol=1e-5)


def test_noise_of_an_image_is_that_of_its_position(vae, images):
    elbo = vae.elbo(images, KEY)
    np.testing.assert_allclose(vae.elbo(images[:3], KEY), elbo[:3], rtol=1e-6)
    order = np.arange(NUM_TEST)[::-1]
    assert np.all(vae.elbo(images[order], KEY)[order] != elbo)


def test_rows_of_padding_change_nothing_even_if_they_are_nan(vae):
    """EvalSteps sees five images and three rows of padding, once finite and once NaN."""
    images = (smooth_images(8, seed=5) / 255.0).astype(np.float32)
    poisoned = images.copy()
    poisoned[5:] = np.nan
    ids = np.arange(8)
    results = []
    for x in (images, poisoned):
        posterior = vae._steps.encode(vae.params, x, ids)
        results.append(
            (
                posterior,
                vae._steps.elbo_terms(vae.params, x, ids, KEY),
                vae._steps.log_weights(vae.params, posterior, x, ids, KEY),
                vae._steps.decode_mean(vae.params, posterior.mean),
            )
        )
    for valid, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(valid[:5], other[:5])
        assert np.isfinite(valid).all() and np.isnan(other[5:]).any()


def test_validation_of_all_images_is_their_mean(vae):
    split = vae.experiment.dataset.split("validation")
    summary = evaluation.validate(vae, split)
    x = split.take(np.random.default_rng(0).permutation(len(split)))
    key = jax.random.split(jax.random.key(vae.experiment.evaluation.seed))[0]
    terms = vae.elbo_terms(x, key)
    expected = {
        "elbo": np.mean(terms.elbo, dtype=np.float64),
        "rate": np.mean(terms.rate, dtype=np.float64),
        "distortion": np.mean(terms.distortion, dtype=np.float64),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(summary.scalars[name], value, rtol=1e-9)
    rate_per_dim = summary.histograms["rate_per_dim"]
    assert rate_per_dim.shape == (LATENT_DIMS,)
    np.testing.assert_allclose(rate_per_dim.sum(), summary.scalars["rate"], rtol=1e-5)


# Likelihoods that are densities


class DensityVAE:
    """The part of a TrainedVAE that the bounds use, with a density as its likelihood."""

    step, image_shape = 7, (16, 16, 1)
    likelihood = Gaussian(1)
    prior_is_exact = True

    experiment = make_experiment()

    def iw_elbo(self, images, key, num_samples, progress=False):
        return np.linspace(0.0, 1.0, len(images))


def test_density_has_no_bits_per_dim(images, test_split):
    vae = DensityVAE()
    zeros = np.zeros((NUM_TEST, 4), np.float32)
    terms = ElboTerms(np.arange(NUM_TEST, dtype=np.float32), zeros, zeros[:, 0])
    computed = bounds._elbo_metrics(vae, test_split, terms)
    computed += bounds._iw_metrics(vae, test_split, images, terms.elbo, KEY)
    assert {metric.name for metric in computed} == {"elbo", "rate", "distortion", "iw_elbo"}


# Pictures


def test_grids_are_pictures(evaluated):
    grids = evaluated[1]
    assert grids.keys() == {
        *("reconstructions", "samples", "samples_drawn", "interpolations", "traversals"),
        *("nearest_neighbours", "principal_directions", "interpolations_of_noise"),
    }
    for name, grid in grids.items():
        assert grid.dtype == np.uint8 and grid.ndim == 3 and grid.shape[2] == 3
        assert len(np.unique(grid)) > 10, name


def tiles(grid: np.ndarray) -> np.ndarray:
    """Splits a grid of 16 x 16 images, enlarged fourfold, into [rows, columns, 16, 16], grey."""
    size, gap = 64, 2
    num_rows, num_columns = ((n - gap) // (size + gap) for n in grid.shape[:2])
    inner = grid[gap:, gap:, 0].reshape(num_rows, size + gap, num_columns, size + gap)
    return inner[:, :size:4, :, :size:4].swapaxes(1, 2)


def assert_same_grey(shown: np.ndarray, x: np.ndarray) -> None:
    """Asserts equality up to one of 255 levels."""
    assert np.abs(shown.astype(np.float64) - 255.0 * x[..., 0]).max() <= 1.01


def test_each_reconstruction_stands_below_its_image(evaluated, vae, images):
    shown = tiles(evaluated[1]["reconstructions"])
    assert_same_grey(shown[0::2].reshape(-1, 16, 16), images / 255.0)
    assert_same_grey(shown[1::2].reshape(-1, 16, 16), vae.reconstruct(images))


def test_nearest_training_image_stands_below_each_sample(evaluated, vae):
    train = vae.experiment.dataset.split("train")
    real = train.take(np.arange(len(train)))[..., 0].astype(np.float64)
    shown = tiles(evaluated[1]["nearest_neighbours"]).astype(np.float64)
    samples, neighbours = (rows.reshape(-1, 16, 16) for rows in (shown[0::2], shown[1::2]))
    assert len(samples) == grids.NUM_RECONSTRUCTIONS
    np.testing.assert_array_equal(samples, tiles(evaluated[1]["samples"]).reshape(-1, 16, 16)[:40])
    distances = ((samples[:, None] - real) ** 2).sum(axis=(2, 3))
    nearest = real[distances.argmin(axis=1)]
    np.testing.assert_array_equal(neighbours, nearest)
    assert len(np.unique(distances.argmin(axis=1))) > 1


def test_samples_at_another_temperature_are_shown_as_well(vae, test_split, evaluated):
    cold = changed_vae(vae, temperature=0.0)
    few = dataclasses.replace(test_split, indices=test_split.indices[:4])
    _, grids, _ = evaluation.evaluate(cold, few)
    np.testing.assert_array_equal(grids["samples"], evaluated[1]["samples"])
    shown = tiles(grids["samples_tempered"]).reshape(-1, 16, 16)
    centre = vae.decode(np.zeros((1, LATENT_DIMS)))
    assert_same_grey(shown, np.repeat(centre, len(shown), axis=0))


def test_interpolations_begin_and_end_at_reconstructions(evaluated, vae, images):
    shown, expected = tiles(evaluated[1]["interpolations"]), vae.reconstruct(images)
    assert_same_grey(shown[:, 0], expected[0:16:2])
    assert_same_grey(shown[:, -1], expected[1:16:2])


@pytest.mark.parametrize("angle", [0.0, 0.5, np.pi / 2, 3.0])
def test_slerp_goes_along_the_arc_at_constant_speed(angle):
    a, b = np.array([[2.0, 0.0]]), 2.0 * np.array([[np.cos(angle), np.sin(angle)]])
    t = np.linspace(0.0, 1.0, 5)
    points = grids.slerp(a, b, t.reshape(-1, 1, 1))
    expected = 2.0 * np.stack([np.cos(t * angle), np.sin(t * angle)], axis=1)[:, None]
    np.testing.assert_allclose(points, expected, atol=1e-12)


def test_interpolations_of_noise_lie_on_arcs_between_draws_of_codes(evaluated, vae, images):
    """N(0, I) is its own noise, so that the arcs are between the draws themselves."""
    sample_key = jax.random.split(jax.random.key(vae.experiment.evaluation.seed), 3)[2]
    posterior = vae.encode(images[:16])
    noise = jax.random.normal(jax.random.fold_in(sample_key, 1), posterior.mean.shape)
    z = np.float64(posterior.mean + np.exp(posterior.log_std) * noise)
    shown = tiles(evaluated[1]["interpolations_of_noise"])
    assert_same_grey(shown[:, 0], vae.decode(z[0::2]))
    assert_same_grey(shown[:, -1], vae.decode(z[1::2]))
    for row, a, b in zip(shown, z[0::2], z[1::2], strict=True):
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        third = (np.sin(2 * angle / 3) * a + np.sin(angle / 3) * b) / np.sin(angle)
        assert_same_grey(row[3], vae.decode(third[None])[0])


def test_principal_directions_are_added_to_the_codes_of_the_first_images(evaluated, vae, images):
    shown = tiles(evaluated[1]["principal_directions"])
    posterior = vae.encode(images)
    assert shown.shape[:2] == (2 * min(LATENT_DIMS, grids.NUM_DIRECTIONS), 11)
    for i in range(2):  # in the middle nothing is added
        middle = vae.decode(posterior.mean[i : i + 1])
        assert_same_grey(shown[i::2, 5], np.repeat(middle, LATENT_DIMS, axis=0))
    variance = np.cov(posterior.mean, rowvar=False, bias=True)
    variance += np.diag(np.exp(2 * posterior.log_std).mean(axis=0))
    values, vectors = np.linalg.eigh(np.float64(variance))
    moved = posterior.mean[:1] + 3 * np.sqrt(values[-1]) * vectors[:, -1]
    back = posterior.mean[:1] - 3 * np.sqrt(values[-1]) * vectors[:, -1]
    ends = np.concatenate([vae.decode(moved), vae.decode(back)])
    sides = [0, -1] if np.abs(255 * ends[0, ..., 0] - shown[0, 0]).max() <= 1.01 else [-1, 0]
    assert_same_grey(shown[0, sides], ends)  # a direction has no sign


def test_mirror_images_are_among_the_neighbours_where_training_sees_them(vae):
    train = vae.experiment.dataset.split("train")
    mirrored = train.take(np.arange(10))[:, :, ::-1]

    def neighbours(vae: TrainedVAE) -> np.ndarray:
        return tiles(grids.nearest_neighbours_grid(vae, mirrored))[1]

    assert np.any(neighbours(vae) != mirrored[..., 0])
    task = dataclasses.replace(vae.experiment.task, flip=True)
    flipping = TrainedVAE(dataclasses.replace(vae.experiment, task=task), vae.params)
    np.testing.assert_array_equal(neighbours(flipping), mirrored[..., 0])


def test_traversal_moves_one_dimension_a_row_by_falling_rate(evaluated, vae, images):
    posterior = vae.encode(images)
    rate = 0.5 * (posterior.mean**2 + np.exp(2 * posterior.log_std) - 1) - posterior.log_std
    order = np.argsort(-rate.mean(axis=0))
    shown = tiles(evaluated[1]["traversals"])
    assert shown.shape[:2] == (LATENT_DIMS, len(grids.TRAVERSAL))
    for row, dim in zip(shown, order, strict=True):
        codes = np.repeat(posterior.mean[:1], len(grids.TRAVERSAL), axis=0)
        codes[:, dim] = grids.TRAVERSAL
        assert_same_grey(row, vae.decode(codes))


@pytest.mark.parametrize("num_images", [2, 13])
def test_split_of_a_few_images_is_evaluated(vae, test_split, num_images):
    few = dataclasses.replace(test_split, indices=test_split.indices[:num_images])
    metrics, *_ = evaluation.evaluate(vae, few)
    assert metrics["elbo"].num_images == num_images
