"""Tests of vae_jax/priors: what all priors have in common, in a VAE and alone.

Each prior has tests of its own: test_vamp.py, test_mixture.py, test_flow.py, test_diffusion.py.
"""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax.traverse_util import flatten_dict

from configs import (
    celeba,
    celeba_10k,
    celeba_10k_prior,
    celeba_prior,
    cifar10,
    cifar10_prior,
    fashion_mnist_grid,
    fashion_mnist_prior,
)
from tests.conftest import IMAGE_SHAPE, SMALL_PRIOR, make_config, make_experiment, smooth_images
from vae_jax import experiment, priors
from vae_jax.inference import TrainedVAE, create_steps
from vae_jax.inference.steps import EvalSteps
from vae_jax.priors.base import Prior, Standardised, StandardNormal
from vae_jax.priors.creation import MIN_STD
from vae_jax.priors.diffusion import Diffusion
from vae_jax.priors.ex_post_mixture import FullGaussianMixture
from vae_jax.priors.flow import Flow
from vae_jax.priors.mixture import GaussianMixture
from vae_jax.priors.vamp import VampPrior

LEARNED = priors.names()[1:]
GRID = (4, 4, 2)
KEY = jax.random.key(5)
NUM_IMAGES = 11  # not a multiple of the batch size, 8
EXP_GAMMA_MIN = math.exp(Diffusion.gamma_min)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return smooth_images(NUM_IMAGES, seed=9)


@functools.cache
def make_run(name: str, latent_shape=(4,), **overrides) -> experiment.Experiment:
    overrides = {
        "prior__name": name,
        "model__latent_shape": latent_shape,
        **SMALL_PRIOR,
        **overrides,
    }
    if name == "ex_post_mixture":  # for a frozen VAE only
        overrides["vae_workdir"] = "vae"
    return make_experiment(**overrides)


@functools.cache
def init_params(name: str, latent_shape=(4,)) -> dict:
    model = make_run(name, latent_shape).model
    params = jax.jit(model.init)(KEY, jnp.zeros((1, *IMAGE_SHAPE)))["params"]
    return jax.device_get(params)


@functools.cache
def make_eval_steps(name: str, latent_shape) -> EvalSteps:
    """Compiled once."""
    return create_steps(make_run(name, latent_shape))


def make_vae(name: str, params: dict, latent_shape=(4,)) -> TrainedVAE:
    steps = make_eval_steps(name, latent_shape)
    return TrainedVAE(make_run(name, latent_shape), params, steps=steps)


def standard_normal_params(name: str, latent_shape) -> dict:
    """Parameters of a VAE whose prior `name` is N(0, I)."""
    params = init_params(name, latent_shape)
    if name == "mixture":  # equal components with any weights
        base = params["prior"]["base"]
        base = {**base, "means": np.zeros_like(base["means"])}
        return {**params, "prior": {**params["prior"], "base": base}}
    if name == "vamp":  # the encoder makes N(0, 1) of every image: softplus(0.5413) = 1
        (size,) = latent_shape
        bias = np.repeat([0.0, math.log(math.expm1(1.0 - 1e-4))], size).astype(np.float32)
        head = {"kernel": np.zeros_like(params["encoder"]["head"]["kernel"]), "bias": bias}
        return {**params, "encoder": {**params["encoder"], "head": head}}
    return params  # as initialised


# Priors that are N(0, I)


@pytest.mark.parametrize(
    ("name", "latent_shape"),
    [
        *((name, (4,)) for name in LEARNED),
        ("flow", GRID),
        ("diffusion", GRID),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}d",
)
def test_prior_that_is_standard_normal_gives_its_bound(name, latent_shape, images):
    """Per image: at the same noise and with the same encoder and decoder, all terms are equal."""
    params = standard_normal_params(name, latent_shape)
    vae = make_vae(name, params, latent_shape)
    parts = {part: params[part] for part in ("encoder", "decoder")}
    normal = make_vae("standard_normal", parts, latent_shape)
    actual, expected = (v.elbo_terms(images, KEY) for v in (vae, normal))
    np.testing.assert_allclose(actual.distortion, expected.distortion, rtol=1e-6)
    np.testing.assert_allclose(actual.rate_per_dim, expected.rate_per_dim, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual.elbo, expected.elbo, rtol=1e-5)
    np.testing.assert_array_equal(expected.log_prior_ratio, 0.0)
    atol = 1e-4
    if name == "diffusion":
        # sigma^2 = exp(gamma_min) at the lowest noise level, times |z|^2 + D, which is about 2 D.
        atol = 10.0 * EXP_GAMMA_MIN * np.prod(latent_shape)
        assert atol < 0.02
    np.testing.assert_allclose(actual.log_prior_ratio, 0.0, atol=atol)
    if name != "vamp":  # there the rate is 0
        assert expected.rate.min() > 10 * atol


@pytest.mark.parametrize("name", LEARNED)
def test_training_and_evaluation_see_the_same_density(name):
    """Training's log p(z) is that of evaluation; the loss is minus it."""
    model = make_run(name).model
    params = init_params(name)
    keys = jax.random.split(jax.random.key(1))
    z = 2.0 * jax.random.normal(keys[0], (8, 4))
    apply = functools.partial(model.apply, {"params": params})
    loss, log_prob = jax.jit(lambda z: apply(z, keys[1], method="prior_loss"))(z)
    np.testing.assert_allclose(loss, -log_prob, rtol=1e-6)
    row_keys = jax.random.split(keys[1], 8)
    evaluated = jax.jit(lambda z: apply(z, row_keys, method="prior_log_prob"))(z)
    assert loss.shape == log_prob.shape == evaluated.shape == (8,)
    # The estimates of an untrained diffusion have no noise.
    np.testing.assert_allclose(log_prob, evaluated, rtol=1e-5)


@pytest.mark.parametrize("name", priors.names())
def test_samples_are_as_many_as_asked_for_and_a_function_of_the_key(name):
    vae = make_vae(name, init_params(name))
    z = vae.sample_prior(KEY, 5)
    assert z.shape == (5, 4) and z.dtype == np.float32 and isinstance(z, np.ndarray)
    assert len(np.unique(z, axis=0)) == 5
    np.testing.assert_array_equal(z, vae.sample_prior(KEY, 5))
    assert np.all(z != vae.sample_prior(jax.random.key(6), 5))
    assert vae.prior_is_exact == (name != "diffusion")


@pytest.mark.parametrize("name", [n for n in priors.names() if n != "vamp"])
def test_temperature_scales_the_noise_of_a_standard_normal(name):
    """At 0 no noise is left; the steps of a sampler are linear if the network predicts 0."""
    vae = make_vae(name, standard_normal_params(name, (4,)) if name in LEARNED else {})
    z = vae.sample_prior(KEY, 6)
    np.testing.assert_allclose(vae.sample_prior(KEY, 6, 0.5), 0.5 * z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vae.sample_prior(KEY, 6, 0.0), 0.0, atol=1e-6)
    assert np.abs(z).max() > 0.5


def test_vamp_at_temperature_0_is_at_the_means_of_its_posteriors(images):
    vae = make_vae("vamp", init_params("vamp"))
    pseudo_inputs = jax.nn.sigmoid(vae.params["prior"]["pseudo_inputs"])
    means = vae.encode(np.asarray(pseudo_inputs)).mean
    z = vae.sample_prior(KEY, 20, 0.0)
    distances = np.abs(z[:, None] - means[None]).max(axis=2)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-5)
    assert set(distances.argmin(axis=1)) == {0, 1, 2}


# The standardisation

DIM = 4
MEAN, STD = np.float32([3.0, -2.0, 0.0, 10.0]), np.float32([0.1, 2.0, 1.0, 4.0])


class Odd(Prior):
    """A prior without an exact density; its loss is not -log p(z), and both depend on keys."""

    is_exact = False
    samples_in_steps = True

    def log_prob(self, z, keys=None):
        return -jnp.abs(z).sum(axis=1) + jax.vmap(jax.random.uniform)(keys)

    def loss(self, z, key):
        return (z**4).sum(axis=1) + jax.random.uniform(key), self.log_prob(
            z, jax.random.split(key, len(z))
        )

    def sample(self, key, num_samples, temperature=1.0):
        return temperature * jnp.ones((num_samples, *self.latent_shape))


def standardised(base, mean=MEAN, std=STD, **base_params):
    params = {"mean": jnp.asarray(mean), "std": jnp.asarray(std)}
    if base_params:
        params["base"] = {name: jnp.asarray(values) for name, values in base_params.items()}
    prior = Standardised(base.latent_shape, base)
    return prior, functools.partial(prior.apply, {"params": params})


def test_standardised_normal_is_the_normal_of_those_moments():
    z = MEAN + STD * np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    _, apply = standardised(StandardNormal((DIM,)))
    expected = scipy.stats.norm.logpdf(np.float64(z), MEAN, np.float64(STD)).sum(axis=1)
    np.testing.assert_allclose(apply(z, None, method="log_prob"), expected, rtol=1e-4, atol=1e-3)


def test_standardised_grid_takes_its_moments_in_the_order_of_the_latent():
    rng = np.random.default_rng(0)
    shape = (2, 3, 2)
    mean, std = rng.normal(size=12).astype(np.float32), rng.uniform(0.5, 2, 12).astype(np.float32)
    _, apply = standardised(StandardNormal(shape), mean, std)
    z = rng.normal(size=(4, *shape)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(np.float64(z.reshape(4, 12)), mean, std).sum(axis=1)
    np.testing.assert_allclose(apply(z, None, method="log_prob"), expected, rtol=1e-4)
    samples = apply(KEY, 3, 0.0, method="sample")
    np.testing.assert_allclose(samples, np.broadcast_to(mean.reshape(shape), (3, *shape)))


def test_density_of_standardised_latents_integrates_to_1():
    base = GaussianMixture((1,), 2)
    base_params = {"logits": [0.0, 1.0], "means": [[-1.0], [2.0]], "log_stds": [[0.3], [-1.0]]}
    _, apply = standardised(base, np.float32([5.0]), np.float32([7.0]), **base_params)
    grid = np.linspace(-60.0, 70.0, 20_001)
    log_prob = apply(np.float32(grid[:, None]), None, method="log_prob")
    np.testing.assert_allclose(np.trapezoid(np.exp(np.float64(log_prob)), grid), 1.0, atol=1e-4)


def test_standardised_samples_have_the_moments():
    _, apply = standardised(StandardNormal((DIM,)))
    num = 20_000
    for temperature in (1.0, 0.5):
        z = np.float64(apply(KEY, num, temperature, method="sample"))
        errors = 5 * temperature * STD / math.sqrt(num)
        assert np.all(np.abs(z.mean(axis=0) - MEAN) < errors)
        assert np.all(np.abs(z.std(axis=0) - temperature * STD) < errors)


def test_standardised_has_the_properties_and_methods_of_its_base():
    prior, apply = standardised(Odd((DIM,)))
    assert (prior.is_exact, prior.samples_in_steps) == (False, True)
    assert Standardised((DIM,), StandardNormal((DIM,))).is_exact
    assert not Standardised((DIM,), StandardNormal((DIM,))).samples_in_steps
    u = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
    z, log_det = MEAN + STD * u, -np.log(np.float64(STD)).sum()
    assert log_det > 0.2
    loss, log_prob = apply(z, KEY, method="loss")
    uniform = jax.vmap(jax.random.uniform)(jax.random.split(KEY, 6))
    expected = -np.abs(u).sum(axis=1) + uniform + log_det
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    # In units of a density: the Jacobian shifts the loss as it shifts minus a log-density.
    np.testing.assert_allclose(
        loss, (u**4).sum(axis=1) + jax.random.uniform(KEY) - log_det, rtol=1e-3
    )
    keys = jax.random.split(jax.random.key(8), 6)
    expected = -np.abs(u).sum(axis=1) + jax.vmap(jax.random.uniform)(keys) + log_det
    np.testing.assert_allclose(apply(z, keys, method="log_prob"), expected, rtol=1e-5)


def test_noise_of_standardised_latents_is_that_of_the_standardised():
    prior, apply = standardised(StandardNormal((DIM,)))
    assert prior.has_noise_map and not standardised(Odd((DIM,)))[0].has_noise_map
    noise = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
    z = apply(noise, method="from_noise")
    np.testing.assert_allclose(z, MEAN + STD * noise, rtol=1e-6)
    np.testing.assert_allclose(apply(z, method="to_noise"), noise, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_moments():
    prior, _ = standardised(GaussianMixture((DIM,), 2))
    z = jax.random.normal(KEY, (3, DIM))
    params = prior.init(KEY, z, KEY, method="loss")["params"]
    assert set(flatten_dict(params, sep="/")) == {
        *("mean", "std", "base/logits", "base/means", "base/log_stds")
    }
    np.testing.assert_array_equal(params["mean"], np.zeros(DIM))
    np.testing.assert_array_equal(params["std"], np.ones(DIM))

    def total(params, method, *arguments):
        leaves = jax.tree.leaves(prior.apply({"params": params}, *arguments, method=method))
        return sum((leaf**2).sum() for leaf in leaves)

    for method, *arguments in (("loss", z, KEY), ("log_prob", z, None), ("sample", KEY, 3, 1.0)):
        gradient = jax.jit(jax.grad(total), static_argnums=(1, 3) if method == "sample" else 1)
        gradients = gradient(params, method, *arguments)
        np.testing.assert_array_equal(gradients["mean"], 0.0)
        np.testing.assert_array_equal(gradients["std"], 0.0)
        assert np.any(gradients["base"]["means"] != 0.0)
    # But gradients pass through them to the latents: d log p / dz.
    gradient = jax.jit(jax.grad(lambda z: total(params, "log_prob", z, None)))(z)
    assert np.all(gradient != 0.0)


# Parameters set from data


def draw_codes(latent_shape, num=200) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=latent_shape) + 2.5 * rng.normal(size=(num, *latent_shape))).astype(
        np.float32
    )


@pytest.mark.parametrize("latent_shape", [(4,), GRID])
@pytest.mark.parametrize("name", LEARNED)
def test_parameters_set_from_data_have_the_shapes_of_the_initial_ones(name, latent_shape, images):
    initial = init_params(name, latent_shape)["prior"]
    before = jax.tree.map(np.copy, initial)
    z = draw_codes(latent_shape)
    actual = priors.start_from_data(name, initial, images, z, seed=0)
    jax.tree.map(np.testing.assert_array_equal, initial, before)  # not changed in place
    assert jax.tree.structure(actual) == jax.tree.structure(initial)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(initial), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    again = priors.start_from_data(name, initial, images, z, seed=0)
    jax.tree.map(np.testing.assert_array_equal, actual, again)
    if name == "vamp":
        return
    rows = np.float64(z.reshape(len(z), -1))
    np.testing.assert_allclose(actual["mean"], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual["std"], rows.std(axis=0), rtol=1e-5)
    if name in ("flow", "diffusion"):
        jax.tree.map(np.testing.assert_array_equal, actual["base"], initial["base"])


def test_means_of_a_mixture_are_standardised_codes(images):
    z = draw_codes(GRID)
    initial = init_params("mixture", GRID)["prior"]
    actual = priors.start_from_data("mixture", initial, images, z, seed=0)
    rows = np.float64(z.reshape(len(z), -1))
    codes = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    distances = np.abs(actual["base"]["means"][:, None] - codes).max(axis=2)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-5)
    chosen = distances.argmin(axis=1)
    assert len(set(chosen)) == 3
    other = priors.start_from_data("mixture", initial, images, z, seed=1)
    assert np.any(other["base"]["means"] != actual["base"]["means"])
    # Put back, they are codes as they were.
    means = actual["mean"] + actual["std"] * actual["base"]["means"]
    np.testing.assert_allclose(means, rows[chosen], rtol=1e-4, atol=1e-4)


def test_mixture_of_one_component_fitted_to_codes_has_their_covariance(images):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + 3.0).astype(np.float32)
    model = make_run("ex_post_mixture", prior__num_components=1).model
    initial = jax.jit(model.init)(KEY, jnp.zeros((1, *IMAGE_SHAPE)))["params"]["prior"]
    prior = priors.start_from_data("ex_post_mixture", initial, images, z, seed=0)
    log_prob = Standardised((4,), FullGaussianMixture((4,), 1)).apply(
        {"params": prior}, z, None, method="log_prob"
    )
    covariance = np.cov(np.float64(z), rowvar=False, ddof=0)
    expected = scipy.stats.multivariate_normal.logpdf(z, z.mean(axis=0), covariance)
    np.testing.assert_allclose(log_prob, expected, atol=2e-3)


def test_latent_that_never_varies_is_not_divided_by_0(images):
    z = draw_codes((4,))
    z[:, 2] = 0.7
    for name in ("flow", "mixture", "diffusion"):
        prior = priors.start_from_data(name, init_params(name)["prior"], images, z, seed=0)
        np.testing.assert_allclose(prior["std"][2], MIN_STD)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(prior))


@pytest.mark.parametrize("name", priors.names())
def test_untrained_codes_set_nothing(name, images):
    """This is for joint training. Pseudo-inputs of a VampPrior still start as images."""
    initial = {} if name == "standard_normal" else init_params(name)["prior"]
    actual = priors.start_from_data(name, initial, images, None, seed=0)
    if name != "vamp":
        jax.tree.map(np.testing.assert_array_equal, actual, initial)
        return
    shown = 255.0 / (1.0 + np.exp(-np.float64(actual["pseudo_inputs"])))
    clipped = np.clip(images, 0.01 * 255, 0.99 * 255)
    distances = np.abs(shown[:, None] - clipped).max(axis=(2, 3, 4))
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-2)
    assert len(set(distances.argmin(axis=1))) == 3


# Priors by name


def shapes_of(name: str, latent_shape=(4,), **options) -> dict[str, tuple[int, ...]]:
    options = {f"prior__{key}": value for key, value in options.items()}
    model = make_run(name, latent_shape, **options).model
    x = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), jnp.float32)
    params = jax.eval_shape(model.init, KEY, x)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(params.get("prior", {})).items()}


def create(name, latent_shape=(4,), dtype=jnp.float32, **options) -> Prior:
    parts = priors.VAEParts(latent_shape, IMAGE_SHAPE, nn.Dense(1), dtype)
    return priors.create_prior(name, parts, **options)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("mixture", GaussianMixture),
        ("ex_post_mixture", FullGaussianMixture),
        ("flow", Flow),
        ("diffusion", Diffusion),
    ],
)
def test_named_prior_sees_standardised_latents(name, base):
    prior = create(name)
    assert type(prior) is Standardised and type(prior.base) is base
    assert prior.latent_shape == prior.base.latent_shape == (4,)


def test_standard_normal_and_vamp_need_no_standardisation():
    assert type(create("standard_normal")) is StandardNormal
    assert type(create("vamp")) is VampPrior
    assert shapes_of("standard_normal") == {}  # checkpoints of earlier versions have no more
    assert shapes_of("vamp", num_components=7) == {("pseudo_inputs",): (7, *IMAGE_SHAPE)}


def test_components_are_as_many_as_configured():
    assert shapes_of("mixture", num_components=7)["base", "means"] == (7, 4)
    assert shapes_of("ex_post_mixture", GRID, num_components=2)["base", "means"] == (2, 32)


def test_flow_is_as_large_as_configured():
    shapes = shapes_of("flow", num_couplings=3, widths=(16,), num_blocks=2)
    assert [path for path in shapes if path[-1].startswith("matrix")] == [
        ("base", f"matrix_{i}") for i in range(3)
    ]
    kernels = [shape for path, shape in shapes.items() if path[-1] == "kernel"]
    assert sorted(kernels) == sorted(3 * [(4, 16), (16, 16), (16, 8)])


def test_diffusion_is_as_large_as_configured():
    vector = shapes_of("diffusion", widths=(16,), num_blocks=2)
    assert vector["base", "network", "stem", "kernel"] == (4, 16)
    assert len({path[2] for path in vector if "ModulatedBlock" in str(path)}) == 2
    grid = shapes_of("diffusion", GRID, widths=(8, 16), attention_resolutions=(2,))
    assert grid["base", "network", "stem", "kernel"] == (3, 3, 2, 8)
    assert grid["base", "network", "downsample_1", "kernel"] == (4 * 8, 16)
    assert "AttentionBlock" in str(grid.keys())
    assert "AttentionBlock" not in str(shapes_of("diffusion", GRID).keys())


def test_options_of_a_diffusion_reach_it():
    options = {"weighting": "simple", "sampler": "heun", "num_sampling_steps": 17}
    base = create("diffusion", dtype=jnp.bfloat16, **options).base
    assert {key: getattr(base, key) for key in options} == options
    assert base.network.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"name": "normal"},
            "prior.name = 'normal' is unknown: use one of standard_normal, vamp",
        ),
        ({"weighting": "snr"}, "prior.weighting = 'snr' is unknown: use one of bound, simple"),
        ({"sampler": "euler"}, "prior.sampler = 'euler' is unknown: use one of ancestral, ddim"),
        ({"widths": ()}, "prior.widths = () must be a tuple"),
        ({"widths": (8, 0)}, "prior.widths = (8, 0) must be a tuple"),
        ({"widths": (8, 8, 8, 8)}, "halves the latent grid (4, 4) 3 times"),
        ({"widths": (8, 8), "latent_shape": (7, 7, 2)}, "halves the latent grid (7, 7) 1 times"),
        ({"widths": (8, 8), "latent_shape": (4, 6, 2)}, None),
        ({"widths": (8, 8, 8), "latent_shape": (4, 6, 2)}, "the latent grid (4, 6) 2 times"),
        # Only a diffusion has levels, and only for grids.
        ({"widths": (8, 8), "latent_shape": (7,)}, None),
        ({"widths": (8, 8), "latent_shape": (7, 7, 2), "name": "flow"}, None),
    ],
)
def test_options_are_checked(changed, message):
    options = {"name": "diffusion", "latent_shape": GRID, "widths": (8,)}
    options |= {"weighting": "bound", "sampler": "ddim"} | changed
    if message is None:
        priors.check_options(**options)
        return
    with pytest.raises(ValueError) as caught:
        priors.check_options(**options)
    assert message in str(caught.value)
    with pytest.raises(ValueError):
        create(**options)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(
    ("vae_module", "prior_module", "image_shape"),
    [
        (fashion_mnist_grid, fashion_mnist_prior, (28, 28, 1)),
        (cifar10, cifar10_prior, (32, 32, 3)),
        (celeba, celeba_prior, (64, 64, 3)),
        (celeba_10k, celeba_10k_prior, (64, 64, 3)),
    ],
)
def test_configurations_of_priors_fit_their_vaes(vae_module, prior_module, image_shape, name):
    """The initial state is traced but not computed."""
    vae_config, config = vae_module.get_config(), prior_module.get_config(name)
    config.vae_workdir = "trained"
    config.model.update(vae_config.model)
    config.likelihood.update(vae_config.likelihood)
    run = experiment.build(config, image_shape)
    state = jax.eval_shape(lambda: run.create_state(jax.random.key(0)))
    assert config.prior.name == name
    assert jax.tree.leaves(state.params["prior"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"prior__attention_resolutions": (3,)}, "(height: width) {4: 8}"),
        (
            {"prior__attention_resolutions": (4,), "prior__widths": (6,)},
            "whose width is a multiple of 4",
        ),
        ({"prior__name": "flow", "model__latent_shape": (1,)}, "needs 2 or more"),
    ],
)
def test_prior_that_does_not_fit_the_latent_is_refused_by_the_validation(
    tmp_path, overrides, message
):
    options = {"model__latent_shape": GRID, "prior__name": "diffusion", **SMALL_PRIOR, **overrides}
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment.validate(make_config(tmp_path, **options))
