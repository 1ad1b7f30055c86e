"""Tests of vae_jax/config/workdir.py: config.json with any content."""

import contextlib
import json

import pytest
from ml_collections import ConfigDict

from tests.config.test_schema import DEFAULTS, is_sane
from tests.conftest import IMAGE_SHAPE, make_config
from vae_jax import config as configuration
from vae_jax import experiment
from vae_jax.config.keys import leaves
from vae_jax.errors import InputError

PARTS = ("config", "image_shape", "provenance", configuration.DATA_HASH)
JSON_VALUES = (
    *(
        "null",
        '"text"',
        '""',
        "[]",
        "[8]",
        "[[8]]",
        "{}",
        '{"a": {"b": []}}',
        "true",
        "false",
        "-1",
    ),
    *("0", "1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 30, "1" * 5000, "0.5", '"\\ud800"'),
    *(
        "[1.5, true]",
        '[{"a": 1}]',
        '"a\\u0000b"',
        "[" * 500 + "]" * 500,
        '{"a":' * 300 + "1" + "}" * 300,
    ),
)


@pytest.fixture
def saved(tmp_path) -> dict:
    """What config.json in `tmp_path` holds."""
    configuration.save(make_config(tmp_path), IMAGE_SHAPE, {"git_commit": "1"}, tmp_path, "abc")
    return json.loads((tmp_path / configuration.CONFIG_FILE).read_text())


def load(workdir) -> ConfigDict:
    """Reads all that a command needs."""
    config, image_shape = configuration.load(workdir), configuration.load_image_shape(workdir)
    assert len(image_shape) == 3
    return config


@pytest.mark.parametrize("key", [*DEFAULTS, *PARTS, "new", "kl", "kl.new"])
def test_any_value_in_config_json_is_sane_or_refused_with_file_and_key(tmp_path, saved, key):
    path = tmp_path / configuration.CONFIG_FILE
    is_value = key in DEFAULTS
    *section, name = key.split(".")
    parent = saved if key in PARTS else saved["config"]
    (parent[section[0]] if section else parent)[name] = "PLACE"
    before, after = json.dumps(saved).split('"PLACE"')
    for value in JSON_VALUES:
        path.write_text(before + value + after)
        try:
            config = load(tmp_path)
        except InputError as error:
            message = str(error)
            assert len(message) < 5000 and str(path) in message
            # A number of too many digits spoils the whole file.
            assert key in message or len(value) > 1000, message
            continue
        assert not is_value or is_sane(dict(leaves(config))[key], DEFAULTS[key]), value
        with contextlib.suppress(InputError):  # values that do not agree with each other
            experiment.validate(config)


@pytest.mark.parametrize("key", [*DEFAULTS, "config", "image_shape", "kl"])
def test_missing_part_of_config_json_is_named(tmp_path, saved, key):
    *section, name = key.split(".")
    parent = saved if key in PARTS else saved["config"]
    del (parent[section[0]] if section else parent)[name]
    (tmp_path / configuration.CONFIG_FILE).write_text(json.dumps(saved))
    if key in configuration.ADDED_KEYS:
        assert dict(leaves(load(tmp_path)))[key] == configuration.ADDED_KEYS[key]
        return
    with pytest.raises(InputError, match=f"{configuration.CONFIG_FILE}.*{key}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "image_shape",
    [
        *([], [16, 16], [16, 16, 1, 1], [16, 16, 0], [-16, 16, 1], [16.0, 16, 1], [[16], 16, 1]),
        *([True, 16, 1], ["16", 16, 1], [None, 16, 1], [10**12, 16, 1], [16, 16, 2]),
    ],
)
def test_image_shape_that_no_dataset_has_is_refused(tmp_path, saved, image_shape):
    path = tmp_path / configuration.CONFIG_FILE
    path.write_text(json.dumps(saved | {"image_shape": image_shape}))
    with pytest.raises(InputError, match="config.json is damaged: image_shape = .* must be .*copy"):
        configuration.load_image_shape(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "null", '"text"', "[" * 10**7, "{", '{"a": NaN', "\ufeff{}", "{} {}"]
)
def test_file_that_holds_no_mapping_is_damaged(tmp_path, content):
    path = tmp_path / configuration.CONFIG_FILE
    path.write_text(content)
    for load_part in (configuration.load, configuration.load_image_shape):
        with pytest.raises(InputError, match=f"{path} is damaged .*: put back a copy, or give"):
            load_part(tmp_path)


@pytest.mark.parametrize("part", ["provenance", "history"])
def test_part_that_is_null_is_one_that_is_missing(tmp_path, saved, part):
    (tmp_path / configuration.CONFIG_FILE).write_text(json.dumps(saved | {part: None}))
    assert isinstance(configuration.load_start(tmp_path), dict)
    configuration.update(configuration.load(tmp_path), tmp_path, {"step": 3})
    content = json.loads((tmp_path / configuration.CONFIG_FILE).read_text())
    assert content["history"] == [{"step": 3}]


def test_number_that_is_not_finite_is_no_value(tmp_path, saved):
    """`files.to_json` writes NaN like this."""
    saved["config"]["kl"] |= {"weight": None, "weight/not_finite": "nan"}
    (tmp_path / configuration.CONFIG_FILE).write_text(json.dumps(saved))
    with pytest.raises(
        InputError, match="config.json is damaged: kl.weight = nan must be a number"
    ):
        configuration.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl.nothing": 1}, "kl.nothing = 1 cannot be set"),
        ({"nothing": 1}, "nothing = 1 cannot be set"),
        ({"eval.batch_size": "x"}, "eval.batch_size = 'x' cannot be set"),
        ({"eval.batch_size": 1.5}, "eval.batch_size = 1.5 cannot be set"),
        ({"kl.weight": 10**400}, "kl.weight = 1000.* cannot be set"),
        ({"kl": 1}, "kl = 1 cannot be set"),
    ],
)
def test_change_that_does_not_fit_is_refused(tmp_path, saved, changes, message):
    with pytest.raises(InputError, match=message):
        configuration.load(tmp_path, changes)
