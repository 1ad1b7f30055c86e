"""Tests of vae_jax/config/ and of every file in configs/."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from tests.conftest import REPOSITORY, config_flags, make_config, make_experiment, run_python
from vae_jax import config as configuration
from vae_jax import evaluation, experiment, training
from vae_jax.errors import UserError
from vae_jax.models import memory

CONFIGS = sorted(
    path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "__init__"
)


def get_config(name: str):
    return importlib.import_module(f"configs.{name}").get_config()


def dataset_image_shape(config) -> tuple[int, int, int]:
    return {
        "fashion_mnist": (28, 28, 1),
        "cifar10": (32, 32, 3),
        "celeb_a": (config.data.image_size, config.data.image_size, 3),
        "celeb_a_10k_crop148_64": (64, 64, 3),
    }[config.data.name]


# Every configuration


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid_and_locked(name):
    config = get_config(name)
    experiment.validate(config)
    assert config.is_locked
    assert all(config[section].is_locked for section in ("data", "model", "kl", "optim", "train"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_the_keys_of_the_default_with_values_of_the_same_types(name):
    flat, expected = (configuration.flatten(c) for c in (get_config(name), default.get_config()))
    assert {k: type(v) for k, v in flat.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_rejects_a_misspelled_key(name):
    config = get_config(name)
    with pytest.raises(AttributeError, match='Did you mean "weight" instead of "wieght"'):
        config.kl.wieght = 2.0


@pytest.mark.parametrize("name", CONFIGS)
def test_model_of_a_config_maps_its_dataset_to_the_likelihoods_parameters(name, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 8 * 2**30)  # that of a small machine
    config = get_config(name)
    image_shape = dataset_image_shape(config)
    run = experiment.build(config, image_shape)
    state = jax.eval_shape(lambda: run.create_state(jax.random.key(config.seed)))
    x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    outputs = jax.eval_shape(lambda p, x: run.model.apply({"params": p}, x), state.params, x)
    assert outputs.shape == (2, *image_shape[:2], run.likelihood.num_outputs)
    assert outputs.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.float32)}


# The command line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.kl.wieght=2", "train.py: --config.kl.wieght: "),
        ("--config.train.num_steps=1.5", "train.py: flag --config.train.num_steps=1.5: "),
        ("--config.data.name=nothing", "train.py: dataset 'nothing'"),
        ("stray", "Unknown arguments ['stray']"),
    ],
    ids=["misspelled_key", "wrong_type", "unknown_dataset", "stray_argument"],
)
def test_wrong_command_line_of_train_ends_with_the_reason(data_dir, tmp_path, flag, message):
    completed = run_python(
        "train.py", f"--workdir={tmp_path / 'run'}", *config_flags(data_dir), flag
    )
    assert completed.returncode == 1
    assert message in completed.stdout + completed.stderr
    if message.startswith("train.py:"):
        assert completed.stderr.startswith(message)
        assert "Traceback" not in completed.stderr
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kl__schedule": "triangle"}, "kl.schedule = 'triangle' is unknown"),
        (
            {"prior__name": "flow", "vae_workdir": "nowhere"},
            r"nowhere/config\.json is missing",
        ),
    ],
    ids=["invalid_value", "no_frozen_vae"],
)
def test_training_ends_with_the_reason_at_once(data_dir, tmp_path, keys, message):
    config = make_config(data_dir, **keys)
    with pytest.raises(UserError, match=message):
        training.train_and_evaluate(config, tmp_path / "run", evaluation.validate)
    assert not (tmp_path / "run" / "config.json").exists()


# The copy in the workdir


def test_json_round_trip_keeps_everything_tuples_included(tmp_path):
    config = make_config(
        tmp_path,
        model__latent_shape=(4, 4, 8),
        model__widths=(8, 16),
        model__num_blocks=(0, 1),
        prior__widths=(8, 24),
    )
    configuration.save(config, (16, 8, 3), {"python": "3"}, tmp_path)
    loaded = configuration.load(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.model.latent_shape == (4, 4, 8) and loaded.model.widths == (8, 16)
    assert loaded.model.num_blocks == (0, 1)
    assert loaded.model.attention_resolutions == loaded.prior.attention_resolutions == ()
    assert loaded.prior.widths == (8, 24)
    assert loaded.is_locked
    assert configuration.load_image_shape(tmp_path) == (16, 8, 3)
    content = json.loads((tmp_path / configuration.CONFIG_FILE).read_text())
    assert content["provenance"] == {"python": "3"}


@pytest.mark.parametrize("load", [configuration.load, configuration.load_image_shape])
def test_directory_without_a_run_is_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is not a training run: give the"):
        load(tmp_path)


def test_same_configuration_is_unchanged_wherever_the_data_is_stored(tmp_path):
    configuration.save(make_config(tmp_path), (16, 16, 1), {}, tmp_path)
    configuration.check_unchanged(make_config(tmp_path / "elsewhere"), (16, 16, 1), tmp_path)


def test_changed_keys_are_listed_and_no_others(tmp_path):
    configuration.save(make_config(tmp_path), (16, 16, 1), {}, tmp_path)
    changed = make_config("elsewhere", kl__weight=2.5, model__widths=(8, 16), seed=7)
    with pytest.raises(ValueError) as caught:
        configuration.check_unchanged(changed, (16, 16, 1), tmp_path)
    assert [line for line in str(caught.value).splitlines() if line.startswith("  ")] == [
        "  kl.weight: 1.0 in the workdir, 2.5 now",
        "  model.widths: [8] in the workdir, [8, 16] now",
        "  seed: 0 in the workdir, 7 now",
    ]


def test_key_of_another_version_is_listed_as_absent(tmp_path):
    config = make_config(tmp_path)
    configuration.save(config, (16, 16, 1), {}, tmp_path)
    with config.unlocked():
        config.kl.new_key = 1
        del config.kl["ramp_fraction"]
    with pytest.raises(ValueError) as caught:
        configuration.check_unchanged(config, (16, 16, 1), tmp_path)
    assert "  kl.new_key: absent in the workdir, 1 now" in str(caught.value)
    assert "  kl.ramp_fraction: 0.5 in the workdir, absent now" in str(caught.value)


def test_flatten_joins_keys_by_dots_and_makes_lists_of_tuples():
    tree = {"a": {"b": (1, 2), "c": {}}, "d": None}
    assert configuration.flatten(tree) == {"a.b": [1, 2], "d": None}


def test_workdir_of_an_earlier_version_keeps_its_behaviour_and_can_continue(tmp_path):
    config = make_config(tmp_path)
    configuration.save(config, (16, 16, 1), {}, tmp_path)
    path = tmp_path / configuration.CONFIG_FILE
    content = json.loads(path.read_text())
    for key in configuration.ADDED_KEYS:
        *section, name = key.split(".")
        del (content["config"][section[0]] if section else content["config"])[name]
    assert content["config"].pop("prior") == {}  # earlier versions had no such section
    path.write_text(json.dumps(content))
    loaded = configuration.load(tmp_path)
    assert loaded.is_locked and loaded.prior.is_locked
    assert loaded.likelihood.reduction == "sum"  # the bound
    assert (loaded.prior.name, loaded.vae_workdir) == ("standard_normal", "")
    assert loaded.prior.to_dict() == config.prior.to_dict()
    assert loaded.optim.ema_warmup
    # Earlier versions had no fixed variance, so that any standard deviation will do.
    assert loaded.likelihood.gaussian_variance != "fixed" and loaded.likelihood.gaussian_std > 0
    experiment.validate(loaded)
    assert configuration.flatten(loaded).keys() == configuration.flatten(config).keys()
    configuration.check_unchanged(config, (16, 16, 1), tmp_path)
    config.likelihood.reduction = "mean"
    with pytest.raises(ValueError, match="likelihood.reduction: sum in the workdir, mean now"):
        configuration.check_unchanged(config, (16, 16, 1), tmp_path)


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (64, 64, 3)])
def test_averaged_distortion_is_divided_by_pixels_and_channels(tmp_path, image_shape):
    values = {
        reduction: experiment.build(
            make_config(tmp_path, likelihood__reduction=reduction), image_shape
        ).task.distortion_weight
        for reduction in configuration.REDUCTIONS
    }
    assert values["sum"] == 1.0
    np.testing.assert_allclose(1.0 / values["mean"], np.prod(image_shape))


@pytest.mark.parametrize("variance", ["learned", "batch_optimal", "fixed"])
def test_only_a_fixed_variance_has_no_parameter(tmp_path, variance):
    config = make_config(
        tmp_path,
        likelihood__name="gaussian",
        likelihood__gaussian_variance=variance,
        likelihood__gaussian_std=0.2,
    )
    run = experiment.build(config, (16, 16, 1))
    gaussian = run.likelihood
    assert (gaussian.gaussian_variance, gaussian.gaussian_std) == (variance, 0.2)
    state = jax.eval_shape(lambda: run.create_state(jax.random.key(0)))
    assert ("log_std" in state.params["decoder"]) == (variance != "fixed")


# Errors


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.ema_decay", 1.0, "optim.ema_decay = 1.0 must be a number from 0 to 0.999999"),
        ("optim.ema_decay", -0.1, "optim.ema_decay = -0.1 must be a number from 0 to"),
        ("optim.name", "sgd", "optim.name = 'sgd' is unknown: use one of adam"),
        ("optim.weight_decay", 0.1, "optim.weight_decay = 0.1 has no effect"),
        ("optim.clip_norm", -1.0, "optim.clip_norm = -1.0 must be a number from 0 to 1e+12 (0: no"),
        (
            "optim.learning_rate",
            0.0,
            "optim.learning_rate = 0.0 must be a number from 1e-12 to 1e+20",
        ),
        ("optim.decay", "step", "optim.decay = 'step' is unknown"),
        ("optim.warmup_steps", 25, "must lie between 0 and 24, the end"),
        ("optim.final_fraction", 1.5, "optim.final_fraction = 1.5"),
        ("kl.free_bits", -1.0, "kl.free_bits = -1.0 must be a number from 0 to"),
        ("kl.weight", -1.0, "kl.weight = -1.0"),
        ("kl.schedule", "step", "kl.schedule = 'step' is unknown: use one of constant"),
        ("kl.num_cycles", 0, "kl.num_cycles = 0"),
        ("model.dtype", "float16", "model.dtype = 'float16' is unknown: use one of float32"),
        ("model.widths", (), "model.widths = ()"),
        ("model.widths", (8, 0), "model.widths = (8, 0) must be a tuple of 1 to 12 integers"),
        ("likelihood.name", "poisson", "likelihood.name = 'poisson' is unknown"),
        ("likelihood.num_mixtures", 0, "likelihood.num_mixtures = 0 must be an integer from 1"),
        ("likelihood.binarize", True, "likelihood.binarize = True"),
        (
            "likelihood.gaussian_std",
            0.0,
            "likelihood.gaussian_std = 0.0 must be a number from 1e-06",
        ),
        ("likelihood.reduction", "max", "'max' is unknown: use one of sum, mean"),
        ("likelihood.gaussian_variance", "constant", "'constant' is unknown: use one of learned"),
        ("eval.num_iw_images", -1, "eval.num_iw_images = -1"),
        ("train.steps_per_call", -1, "train.steps_per_call = -1 must be an integer from 0"),
        ("train.steps_per_call", 3, "train.steps_per_call = 3 must divide"),
        ("prior.name", "normal", "prior.name = 'normal' is unknown: use one of standard_normal"),
        ("prior.weighting", "snr", "prior.weighting = 'snr' is unknown: use one of bound, simple"),
        ("prior.weighting", "simple", "prior.weighting = 'simple' is for a frozen VAE only"),
        ("prior.sampler", "euler", "prior.sampler = 'euler' is unknown: use one of ancestral"),
        ("prior.widths", (), "prior.widths = () must be a tuple of 1 to 12 integers"),
        ("prior.temperature", -0.1, "prior.temperature = -0.1 must be a number from 0"),
        ("prior.name", "ex_post_mixture", "prior.name = 'ex_post_mixture' is for a frozen VAE"),
        ("vae_workdir", "runs/vae", "prior.name = 'standard_normal' has no parameters to train on"),
    ],
)
def test_value_that_breaks_a_rule_is_refused(tmp_path, key, value, message):
    config = make_config(tmp_path, **{key: value})
    with pytest.raises(ValueError) as caught:
        experiment.validate(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["vamp", "mixture", "flow", "diffusion"])
def test_free_bits_are_refused_if_the_rate_has_no_parts_per_dimension(tmp_path, name):
    experiment.validate(make_config(tmp_path, prior__name=name))
    with pytest.raises(ValueError, match=f"kl.free_bits = 0.5 needs a rate .* not '{name}'"):
        experiment.validate(make_config(tmp_path, prior__name=name, kl__free_bits=0.5))
    experiment.validate(make_config(tmp_path, kl__free_bits=0.5))


def test_options_for_a_frozen_vae_are_accepted_with_one(tmp_path):
    for overrides in (
        {"prior.name": "ex_post_mixture"},
        {"prior.name": "diffusion", "prior.weighting": "simple"},
        {"prior.name": "vamp", "prior.temperature": 0.0},
    ):
        experiment.validate(make_config(tmp_path, vae_workdir="runs/vae", **overrides))


def test_widths_that_do_not_halve_the_latent_grid_are_refused(tmp_path):
    overrides = {"prior.name": "diffusion", "model.latent_shape": (4, 4, 2)}
    experiment.validate(make_config(tmp_path, **overrides, prior__widths=(8, 8, 8)))
    config = make_config(tmp_path, **overrides, prior__widths=(8, 8, 8, 8))
    with pytest.raises(ValueError, match=r"prior.widths = .* halves the latent grid \(4, 4\) 3"):
        experiment.validate(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.patch_size": 3}, "model.patch_size = 3"),
        ({"model.widths": (8,) * 4, "model.num_blocks": (1,) * 4}, "fewer widths"),
        ({"model.num_blocks": (1, 1)}, "model.num_blocks = (1, 1)"),
        ({"model.num_blocks": (-1,)}, "model.num_blocks = (-1,)"),
        ({"model.attention_resolutions": (5,)}, "model.attention_resolutions = (5,)"),
        ({"model.latent_shape": (4, 4)}, "model.latent_shape = (4, 4)"),
        ({"model.latent_shape": (8, 8, 2)}, "resolution (4, 4)"),
    ],
)
def test_model_that_does_not_fit_the_images_is_refused(tmp_path, overrides, message):
    with pytest.raises(ValueError) as caught:
        experiment.build(make_config(tmp_path, **overrides), (16, 16, 1))
    assert message in str(caught.value)


# Steps per call


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ((10_000, 100, 1000, 500), 50),  # the largest divisor of 100 up to 50
        ((24, 1, 8, 4), 1),
        ((60, 12, 24, 36), 12),
        ((106, 53, 53, 53), 1),  # 53 is prime and too large
    ],
)
def test_automatic_steps_per_call_divide_every_interval(tmp_path, monkeypatch, intervals, expected):
    names = ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
    values = {f"train.{name}": value for name, value in zip(names, intervals, strict=True)}
    plan = make_experiment(tmp_path, **values).training
    assert plan.steps_in_call() == 1  # on the CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert plan.steps_in_call() == expected


def test_given_steps_per_call_are_used(tmp_path):
    run = make_experiment(tmp_path, train__log_every_steps=4, train__steps_per_call=2)
    assert run.training.steps_in_call() == 2


@pytest.mark.parametrize("steps_per_call", [3, 8])
def test_steps_per_call_that_do_not_divide_an_interval_are_refused(tmp_path, steps_per_call):
    config = make_config(tmp_path, train__log_every_steps=4, train__steps_per_call=steps_per_call)
    message = f"train.steps_per_call = {steps_per_call} must divide .*log_every_steps': 4"
    with pytest.raises(ValueError, match=message):
        experiment.validate(config)


# Batches


@pytest.mark.parametrize("value", [64, "auto"])
def test_batch_size_is_a_number_or_auto(data_dir, value):
    experiment.validate(make_config(data_dir, train__batch_size=value))


@pytest.mark.parametrize("value", [0, -8, 6.5, "many", True])
def test_other_batch_sizes_are_refused(data_dir, value):
    message = f"train.batch_size = {value!r} must be an integer from 1 to 1,000,000, or 'auto'"
    with pytest.raises(ValueError, match=message):
        experiment.validate(make_config(data_dir, train__batch_size=value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "train.accumulation_steps = 3 must divide train.batch_size = 8"),
        ({"train__batch_size": 9, "kl__free_bits": 0.1}, "kl.free_bits = 0.1 makes the loss"),
        (
            {
                "train__batch_size": 9,
                "likelihood__name": "gaussian",
                "likelihood__gaussian_variance": "batch_optimal",
            },
            "likelihood.gaussian_variance = 'batch_optimal' makes the loss",
        ),
    ],
)
def test_batch_that_cannot_be_accumulated_is_refused(data_dir, overrides, message):
    config = make_config(data_dir, train__accumulation_steps=3, **overrides)
    with pytest.raises(ValueError, match=message):
        experiment.validate(config)
