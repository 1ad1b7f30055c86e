"""Tests of vae_jax/config/schema.py, with every key and values of every type."""

import contextlib
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, config_dict

from tests.conftest import IMAGE_SHAPE, make_config
from vae_jax import experiment, models
from vae_jax.config import defaults, schema
from vae_jax.config.keys import leaves
from vae_jax.errors import InputError
from vae_jax.registry import Option, Registry, flag, integer, integers, number, one_of, text

DEFAULTS = dict(leaves(defaults.get_config()))


class Hostile:
    """A value that cannot be compared, printed, hashed or turned into a number."""

    def _fail(self, *_):
        raise RuntimeError

    __repr__ = __str__ = __eq__ = __hash__ = __lt__ = __le__ = __gt__ = __ge__ = _fail
    __len__ = __iter__ = __bool__ = __index__ = __float__ = __contains__ = _fail


NUMBERS = (
    *(0, -1, 1, 2, 8, 0.5, 1.0, 1.5, 1e-300, 1e30, -1e30, math.nan, math.inf, -math.inf),
    *(10**12, 2**31, 2**32, 2**40, 10**400, 10**5000, 1 - 1e-10),
)
TEXTS = ("", "auto", "flow", "a\0b", "a\nb", "\ud800", "x" * 10**5, "nan")
TUPLES = (
    *((), (0,), (1,), (8, 8), (4, 4, 2), (1.5,), (True,), ("a",), ((8,),), (math.nan,)),
    *((10**12,), (2**16,) * 3, (1,) * 100, ([8],), ({},), (10**5000,)),
)
OTHERS = (
    *(None, True, False, [], [8], {}, {"a": 1}, {8}, b"8", 1j, int, Hostile(), range(3)),
    *(np.int64(1), np.float32(1), np.bool_(True), np.ones(2)),
)
VALUES = (*NUMBERS, *TEXTS, *TUPLES, *OTHERS)


def set_value(config: ConfigDict, key: str, value) -> None:
    """Sets a value of any type, also one that ml_collections would refuse."""
    *section, name = key.split(".")
    tree = config[section[0]] if section else config
    with config.unlocked():
        del tree[name]
        tree[name] = value


def is_sane(value, default) -> bool:
    """Whether a value has the type of the default, and nothing in it is endless."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(i, int) and i < 10**5 for i in value)
    if isinstance(default, str):
        return isinstance(value, str) and "\0" not in value and bool(value.encode() or not default)
    if isinstance(default, float):
        return (
            isinstance(value, int | float) and math.isfinite(value) and np.float32(value) != np.inf
        )
    return value == "auto" or (isinstance(value, int) and 0 <= value < 2**32)


# Every key


def test_every_key_has_a_rule_and_every_rule_a_key():
    assert schema.rules().keys() == DEFAULTS.keys()


@pytest.mark.parametrize("key", DEFAULTS)
def test_any_value_of_a_key_is_sane_or_refused_by_name(tmp_path, monkeypatch, key):
    monkeypatch.setattr(models, "check_memory", lambda *_: None)  # it takes some time
    num_accepted = 0
    config = make_config(tmp_path)
    for value in (*VALUES, DEFAULTS[key]):
        set_value(config, key, value)
        try:
            experiment.validate(config)
            experiment.build(config, IMAGE_SHAPE)
        except InputError as error:
            assert key in str(error) and len(str(error)) < 5000
        else:
            assert is_sane(value, DEFAULTS[key]), value
            num_accepted += 1
    assert num_accepted > 0


COUNTS = (
    *("data.validation_size", "data.crop", "data.image_size", "model.patch_size"),
    *(f"prior.num_{name}" for name in ("components", "couplings", "blocks", "sampling_steps")),
    *("likelihood.num_mixtures", "kl.num_cycles", "optim.max_skipped_in_a_row"),
    *("train.batch_size", "train.accumulation_steps", "train.num_steps", "train.log_every_steps"),
    *("train.eval_every_steps", "train.checkpoint_every_steps", "train.keep_checkpoints"),
    *("eval.batch_size", "eval.num_iw_samples"),
)


@pytest.mark.parametrize("key", COUNTS)
def test_counts_below_one_are_refused(tmp_path, key):
    with pytest.raises(InputError, match=f"{key} = 0 must be an integer from 1 to"):
        experiment.validate(make_config(tmp_path, **{key: 0}))


@pytest.mark.parametrize("key", ["seed", "eval.seed"])
def test_seeds_are_those_that_numpy_and_jax_tell_apart(tmp_path, key):
    largest = 2**32 - 1
    experiment.validate(make_config(tmp_path, **{key: largest}))
    np.random.RandomState(largest)  # as scikit-learn uses
    data = [jax.random.key_data(jax.random.key(seed)) for seed in (0, largest, largest + 1)]
    assert (data[0] != data[1]).any() and (data[0] == data[2]).all()
    with pytest.raises(InputError, match=f"{key} = 4294967296 must be an integer from 0 to"):
        experiment.validate(make_config(tmp_path, **{key: largest + 1}))


@pytest.mark.parametrize("key", ["optim.b1", "optim.b2"])
def test_largest_decay_rate_leaves_float32_something_to_divide_by(key):
    decay = 0.999999
    schema.rules()[key].check(key, decay)
    assert 1 - np.float32(decay) > 0
    assert 1 - np.float32(1 - 1e-10) == 0
    with pytest.raises(InputError, match=f"{key} = 0.9999999999 must be a number from 0 to"):
        schema.rules()[key].check(key, 1 - 1e-10)


@pytest.mark.parametrize(
    "key", ["kl.ramp_fraction", "optim.learning_rate", "likelihood.gaussian_std"]
)
def test_smallest_divisor_is_above_0_in_float32(key):
    with pytest.raises(InputError, match=f"{key} = 1e-300 must be a number from"):
        schema.rules()[key].check(key, 1e-300)
    assert np.float32(1e-300) == 0


def test_weight_decay_that_takes_more_than_the_weights_is_refused(tmp_path):
    decay = {"optim__name": "adamw", "optim__learning_rate": 0.01}
    experiment.validate(make_config(tmp_path, **decay, optim__weight_decay=99.0))
    with pytest.raises(InputError, match=r"optim.weight_decay = 100.0 times .* must be below 1"):
        experiment.validate(make_config(tmp_path, **decay, optim__weight_decay=100.0))


def test_blocks_of_all_couplings_of_a_flow_are_limited(tmp_path):
    flow = {"prior__name": "flow", "prior__num_blocks": 8}
    experiment.validate(make_config(tmp_path, **flow, prior__num_couplings=64))
    with pytest.raises(InputError, match="prior.num_couplings = 65 times prior.num_blocks = 8"):
        experiment.validate(make_config(tmp_path, **flow, prior__num_couplings=65))


# The keys themselves


def test_unknown_and_missing_keys_are_named(tmp_path):
    config = make_config(tmp_path)
    with config.unlocked():
        config.kl.new_key = config.note = 1
        del config.kl["weight"], config["eval"]
        del config["optim"]
        config.optim = 3
    with pytest.raises(InputError) as caught:
        experiment.validate(config)
    sections = {key: [k for k in DEFAULTS if k.startswith(key)] for key in ("eval.", "optim.")}
    expected = sorted(["kl.weight", *sections["eval."], *sections["optim."]])
    assert f"unknown key kl.new_key, note, optim and lacks {', '.join(expected)}:" in str(
        caught.value
    )


def test_placeholder_without_a_value_is_refused(tmp_path):
    config = ConfigDict(make_config(tmp_path).to_dict())  # not locked
    config.train.num_steps = config_dict.required_placeholder(int)
    with pytest.raises(InputError, match="train.num_steps = None must be an integer"):
        experiment.validate(config)


@pytest.mark.parametrize("config", [None, 3, {"seed": 0}])
def test_what_is_no_configuration_is_refused(config):
    with pytest.raises(InputError, match=f"of type {type(config).__name__}, not a ConfigDict"):
        experiment.validate(config)


# Rules


def strict_registry() -> Registry[int]:
    """Its option is tested without a thought of other types."""
    registry: Registry[int] = Registry("section")
    registry.register("kind", size=Option("must be above 3", lambda value: value > 3))(1)
    return registry


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_rule_refuses_with_an_input_error_only(value):
    options = (
        *(integer(0, 9), number(0, 9), integers(0, 9, [1], "1"), flag(), text(), one_of(["a"])),
        one_of(strict_registry()),
        Option("must be above 3", lambda value: value > 3),
        Option("must be new", lambda value: value not in VALUES and value / 0),
    )
    for option in options:
        with contextlib.suppress(InputError):
            option.check("some.key", value)
            assert option.holds(value)


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        (integer(1, 3), (1, 3), (0, 4, 1.0, True, "1", None)),
        (number(0.5, 3), (0.5, 3, 3.0, np.float64(1)), (0.49, 3.01, math.nan, math.inf, True, "1")),
        (integers(1, 3, [0, 2], "no or 2"), ((), (1, 3)), ((1,), (1, 4), (1, True), [1, 3], "ab")),
        (integers(1, 9, [2], "2", max_product=10), ((2, 5), (9, 1)), ((2, 6), (9, 9))),
        (flag(), (True, False), (0, 1, "True", None)),
        (text(), ("a", "~/ä b", "x" * 1000), ("", "x" * 1001, "a\0", "\n", "\ud800", b"a", None)),
        (text(may_be_empty=True), ("",), ("\0",)),
        (one_of(["a", "b"]), ("a",), ("c", "", ["a"], None, 0)),
    ],
)
def test_rule_holds_up_to_the_ends_of_its_range(option, good, bad):
    for value in good:
        option.check("some.key", value)
    for value in bad:
        with pytest.raises(InputError, match="^some.key = "):
            option.check("some.key", value)


def test_rule_says_type_range_and_note():
    assert integer(0, 5000, "0: all").describe() == "must be an integer from 0 to 5,000 (0: all)"
    assert number(0, 1e6).describe() == "must be a number from 0 to 1e+06"
    assert integers(1, 9, [1, 3], "1 or 3", max_product=20).describe() == (
        "must be a tuple of 1 or 3 integers from 1 to 9, with a product of at most 20"
    )
