"""Tests of vae_jax/registry.py, with kinds that are registered from outside the package."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vae_jax
from tests.conftest import SMALL_PRIOR, make_config, smooth_images
from vae_jax import config as configuration
from vae_jax import data, experiment, likelihoods, priors, training
from vae_jax.data import sources
from vae_jax.distributions import normal_log_prob, sum_event
from vae_jax.errors import InputError
from vae_jax.priors import samplers
from vae_jax.recording.writers import Summary
from vae_jax.registry import Option, Registry, at_least, one_of

SHORT = {
    "train__num_steps": 2,
    "train__eval_every_steps": 2,
    "train__checkpoint_every_steps": 2,
    "kl__warmup_steps": 1,
}


@dataclasses.dataclass(frozen=True)
class Narrow(likelihoods.Likelihood):
    """A Gaussian of given width."""

    width: float = 1.0

    @property
    def num_outputs(self):
        return self.num_channels

    def log_prob(self, outputs, x):
        return sum_event(normal_log_prob(x, jax.nn.sigmoid(outputs), jnp.log(self.width)))

    def sample(self, key, outputs):
        return jnp.clip(
            self.mean(outputs) + self.width * jax.random.normal(key, outputs.shape), 0, 1
        )

    def mean(self, outputs):
        return jax.nn.sigmoid(outputs)


class Shifted(priors.Prior):
    """N(centre, I), with a learned centre that starts at `shift`, or at the mean of the codes."""

    shift: tuple[float, ...] = (0.0,)
    standardised = True

    def setup(self):
        self.centre = self.param("centre", lambda _: jnp.resize(jnp.array(self.shift), (4,)))

    @classmethod
    def check(cls, latent_shape, options):
        if len(latent_shape) != 1:
            raise InputError(f"model.latent_shape = {latent_shape} must be a vector.")

    @classmethod
    def gives_bound(cls, options):
        return options.get("shift") != (9.0,)

    @classmethod
    def start_from_data(cls, params, images, z, seed):
        return {"centre": z[0] + np.float32(params["centre"])}

    def log_prob(self, z, keys=None):
        return sum_event(normal_log_prob(z, self.centre, 0.0))

    def sample(self, key, num_samples, temperature=1.0):
        noise = jax.random.normal(key, (num_samples, *self.latent_shape))
        return self.centre + temperature * noise


class Examples(list):
    def __getitems__(self, rows):
        return [self[row] for row in rows]


class Builder:
    """Has the interface of a TFDS builder."""

    def __init__(self, data_dir):
        pass

    def download_and_prepare(self, file_format):
        assert file_format == "array_record"

    def as_data_source(self):
        sizes = {"train": 40, "test": 8}
        return {s: Examples({"image": i} for i in smooth_images(n)) for s, n in sizes.items()}


@dataclasses.dataclass(frozen=True)
class Dimmed(sources.Source):
    """Smooth images, some grey levels darker."""

    levels: int = 0

    @property
    def directory_name(self):
        return f"{self.name}_{self.levels}"

    def builder(self):
        return Builder

    def transform(self, image):
        return np.uint8(np.maximum(np.int32(image) - self.levels, 0))

    def describe(self):
        return f"{self.levels} levels darker"


def step_to_zero(predict_v, z, gamma, next_gamma, noise):
    return 0.0 * predict_v(z, gamma) + 0.5 * noise


@pytest.fixture(autouse=True)
def toys():
    """Registers a kind of each family, and removes it afterwards."""
    likelihoods.register("narrow", width=Option("must be positive", lambda v: v > 0))(Narrow)
    priors.register("shifted", shift=Option("must be short", lambda v: len(v) < 4))(Shifted)
    sources.register("dimmed", levels=at_least(0))(Dimmed)
    samplers.register("to_zero", draws_noise=True)(step_to_zero)
    yield
    for registry, name in (
        (likelihoods.REGISTRY, "narrow"),
        (priors.REGISTRY, "shifted"),
        (sources.REGISTRY, "dimmed"),
        (samplers.REGISTRY, "to_zero"),
    ):
        registry.unregister(name)
        assert name not in registry


def toy_config(directory, **overrides):
    options = {"likelihood.width": 0.1, "prior.shift": (2.0, -2.0), "data.levels": 5}
    config = make_config(directory)
    with config.unlocked():
        for key, value in options.items():
            section, name = key.split(".")
            config[section][name] = value
    overrides = {
        "data__name": "dimmed",
        "likelihood__name": "narrow",
        "prior__name": "shifted",
        "data__validation_size": 8,
        **SHORT,
        **SMALL_PRIOR,
        **overrides,
    }
    flat = {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(flat)
    return config


def evaluate_nothing(vae, split):
    return Summary({"elbo": -1.0, "rate": 0.0, "distortion": 1.0})


def test_toys_train_and_load_and_sample(tmp_path):
    config = toy_config(tmp_path)
    run = experiment.build(config)
    training.train_and_evaluate(config, tmp_path / "vae", evaluate_nothing)
    assert (tmp_path / "dimmed_5" / "train_images.npy").exists()
    images = run.dataset.split("test").take(slice(None))
    np.testing.assert_array_equal(images, np.maximum(np.int32(smooth_images(8)) - 5, 0))
    assert run.dataset.describe() == "5 levels darker"

    vae = vae_jax.load(tmp_path / "vae")
    assert vae.likelihood == Narrow(1, 0.1)
    loaded = configuration.load(tmp_path / "vae")
    assert configuration.flatten(loaded) == configuration.flatten(config)
    assert loaded.prior.shift == (2.0, -2.0)  # a tuple again
    configuration.check_unchanged(config, (16, 16, 1), tmp_path / "vae")
    np.testing.assert_allclose(vae.params["prior"]["base"]["centre"], [2, -2, 2, -2], atol=0.1)
    assert vae.sample(jax.random.key(0), 3).shape == (3, 16, 16, 1)

    config = toy_config(
        tmp_path,
        vae_workdir=str(tmp_path / "vae"),
        prior__name="diffusion",
        prior__sampler="to_zero",
    )
    training.train_and_evaluate(config, tmp_path / "prior", evaluate_nothing)
    vae = vae_jax.load(tmp_path / "prior")
    z = vae.sample_prior(jax.random.key(0), 2000)
    moments = vae.params["prior"]
    deviations = (z - moments["mean"]) / moments["std"]
    np.testing.assert_allclose(deviations.std(axis=0), 0.5, atol=0.05)  # the step's last noise

    config.prior.name = "shifted"  # starts from the codes of the frozen VAE
    params = {"prior": {"mean": 0, "std": 1, "base": {"centre": 0}}}
    run = experiment.build(config)
    start = run.task.start(params, run.dataset.split("train"), vae_jax.load)["prior"]
    for key in ("mean", "std"):
        np.testing.assert_allclose(start[key], moments[key], rtol=1e-5)
    assert start["base"]["centre"].shape == (4,)


def test_standardised_prior_starts_from_standardised_codes():
    z = np.float32([[1.0, 0.0], [3.0, 0.0]])
    images, initial = smooth_images(2), {"mean": 0, "std": 1, "base": {"centre": 2.0}}
    assert priors.start_from_data("shifted", initial, images, None, 0) == initial
    actual = priors.start_from_data("shifted", initial, images, z, 0)
    np.testing.assert_allclose(actual["mean"], [2.0, 0.0])
    np.testing.assert_allclose(actual["std"], [1.0, 1e-3])
    np.testing.assert_allclose(actual["base"]["centre"], [1.0, 2.0])


def test_run_of_an_unregistered_prior_is_refused_at_loading(tmp_path):
    configuration.save(toy_config(tmp_path), (16, 16, 1), {}, tmp_path)
    configuration.load(tmp_path)
    priors.REGISTRY.unregister("shifted")
    with pytest.raises(InputError, match=r"does not know: prior.shift\. "):
        configuration.load(tmp_path)
    priors.register("shifted", shift=Option())(Shifted)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("likelihood.name", "wide", r"'wide' is unknown: use one of bernoulli, .*, narrow\."),
        ("prior.name", "shift", r"'shift' is unknown: use one of standard_normal, .*, shifted\."),
        ("prior.sampler", "zero", r"'zero' is unknown: use one of ancestral, .*, to_zero\."),
        ("likelihood.width", 0.0, r"likelihood.width = 0.0 must be positive\."),
        ("prior.shift", (0.0,) * 4, r"prior.shift = \(0.0, 0.0, 0.0, 0.0\) must be short\."),
        ("prior.shift", (9.0,), r"prior.shift = \(9.0,\) is for a frozen VAE only"),
        ("model.latent_shape", (4, 4, 2), r"model.latent_shape = \(4, 4, 2\) must be a vector"),
        ("kl.free_bits", 0.5, "only prior.name = 'standard_normal' has, not 'shifted'"),
        ("likelihood.binarize", True, "likelihood.name = 'narrow': only 'bernoulli' is"),
    ],
)
def test_rules_are_enforced(tmp_path, key, value, message):
    with pytest.raises(InputError, match=message):
        experiment.validate(toy_config(tmp_path, **{key: value}))


def test_rule_of_a_dataset_is_enforced(tmp_path):
    with pytest.raises(InputError, match=r"data.levels = -1 must be at least 0\."):
        data.prepare("dimmed", tmp_path, levels=-1)
    with pytest.raises(InputError, match="not one of fashion_mnist, .*, dimmed, and"):
        data.prepare("bright", tmp_path)


def test_option_of_another_kind_is_checked_but_not_passed_on():
    assert likelihoods.create_likelihood("narrow", 1, num_mixtures=3) == Narrow(1)
    with pytest.raises(InputError, match="likelihood.num_mixtures = 0 must be an integer from 1"):
        likelihoods.create_likelihood("narrow", 1, num_mixtures=0)
    with pytest.raises(TypeError, match="no likelihood has the option 'widht'"):
        likelihoods.create_likelihood("narrow", 1, widht=0.1)
    prior = priors.create_prior(
        "shifted", priors.VAEParts((4,), (16, 16, 1), nn.Dense(1)), shift=(1.0,)
    )
    assert prior.base == Shifted((4,), (1.0,))


def test_rule_of_the_selected_kind_counts():
    registry: Registry[int] = Registry("section")
    registry.register("loose", size=at_least(1))(1)
    registry.register("strict", size=at_least(3))(3)
    registry.register("without")(0)
    for name in ("loose", "without"):
        registry.check({"name": name, "size": 2})
        with pytest.raises(InputError, match="section.size = 0 must be at least 1"):
            registry.check({"name": name, "size": 0})
    with pytest.raises(InputError, match="section.size = 2 must be at least 3"):
        registry.check({"name": "strict", "size": 2})


def test_name_is_registered_once():
    with pytest.raises(InputError, match=r"prior.name = 'flow' is taken\."):
        priors.register("flow")(Shifted)


def test_registry_that_grows_is_seen_by_a_rule():
    registry: Registry[int] = Registry("section")
    rule = one_of(registry)
    assert not rule.holds("one")
    registry.register("one")(1)
    assert rule.holds("one") and registry["one"] == 1 and registry.names() == ("one",)
    assert registry.keys() == set()


@pytest.mark.parametrize("name", likelihoods.names())
def test_properties_of_likelihoods(name):
    for variance in likelihoods.GAUSSIAN_VARIANCES:
        options = {"gaussian_variance": variance, "gaussian_std": 0.2}
        likelihood = likelihoods.create_likelihood(name, 1, **options)
        gaussian = name == "gaussian"
        assert likelihood.has_log_std == (gaussian and variance != "fixed")
        assert likelihood.optimal_scale == (gaussian and variance == "batch_optimal")
        assert likelihood.has_free_variance == (gaussian and variance != "batch_optimal")
        assert likelihood.grey_is_probability == (name == "bernoulli")
        std = likelihood.std({"decoder": {"log_std": jnp.array(-1.0)}})
        if not gaussian:
            assert std is None
        elif variance == "fixed":
            assert std == 0.2
        else:
            np.testing.assert_allclose(std, np.exp(likelihood.log_std(-1.0)), rtol=1e-6)


def test_properties_of_priors():
    kinds = {name: priors.kind(name) for name in priors.names() if name != "shifted"}

    def having(predicate):
        return {name for name, kind in kinds.items() if predicate(kind)}

    assert having(lambda k: not k.has_parameters) == {"standard_normal"}
    assert having(lambda k: k.splits_by_dimension) == {"standard_normal"}
    assert having(lambda k: not k.trains_in_steps) == {"ex_post_mixture"}
    assert having(lambda k: not k.gives_bound({})) == {"ex_post_mixture"}
    simple = having(lambda k: not k.gives_bound({"weighting": "simple"}))
    assert simple == {"ex_post_mixture", "diffusion"}
