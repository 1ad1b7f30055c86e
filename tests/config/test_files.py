"""Tests of vae_jax/config/files.py: Python files with errors, and flags with wrong keys."""

import pytest
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax.errors import InputError

START = "from ml_collections import ConfigDict\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", r"has an error: SyntaxError: .*line 1"),
        ("\0", "has an error: .*null bytes"),
        ("import nothing\n", "has an error, line 1: ModuleNotFoundError: .*'nothing'"),
        ("\ndef get_config():\n    return 1 / 0\n", "has an error, line 3: ZeroDivisionError"),
        ("def get_config(name):\n    pass\n", "has an error: TypeError: .*'name'"),
        ("config = 1\n", "lacks get_config: see demo.py"),
        ("def get_config():\n    return {}\n", "returned a value of type dict, and must return"),
        ("def get_config():\n    pass\n", "returned a value of type NoneType, and must return"),
        (f"{START}def get_config():\n    return ConfigDict().seed\n", "line 3: AttributeError"),
        (
            "from vae_jax.config import named_config\ndef get_config():\n"
            "    return named_config('nothing')\n",
            "--config=nothing: no such Python file",
        ),
    ],
)
def test_error_in_a_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        configuration.named_config(path)
    with pytest.raises(InputError, match=message):
        configuration.check_flags(["train.py", f"--config={path}"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--config=demo", "--config.seed=1", "--config.model.widths=8", "--noconfig.model.remat"],
        ["-config", "demo", "--config.seed", "1", "--config.kl={}", "--config.model.widths[0]=3"],
        ["--workdir=x"],
        ["--config"],
    ],
)
def test_flags_of_existing_keys_pass(flags):
    configuration.check_flags(configuration.replace_config_name(["train.py", *flags]))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.kl.wieght=2", "--config.kl.wieght: .*demo.py has no key .* mean kl.weight"),
        ("-config.nothing", "--config.nothing: .* See its get_config"),
        ("--noconfig.model.rmat", "--config.model.rmat: .* Did you mean model.remat"),
        ("--config.seed.x=1", "--config.seed.x: "),
    ],
)
def test_flag_of_another_key_is_refused(flag, message):
    argv = configuration.replace_config_name(["train.py", flag, "--config=demo"])
    with pytest.raises(InputError, match=message):
        configuration.check_flags(argv)


def test_text_after_a_colon_is_given_to_get_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{START}def get_config(key):\n    return ConfigDict({{key: 1}})\n")
    configuration.check_flags(["", f"--config={path}:mine", "--config.mine=2"])
    with pytest.raises(InputError, match=r"--config.mine: .* has no key"):
        configuration.check_flags(["", f"--config={path}:other", "--config.mine=2"])
    assert configuration.named_config(path, "mine") == ConfigDict({"mine": 1})


@pytest.mark.parametrize("last", [["--config.model.widths=(16,)"], ["--config.model.widths", "16"]])
def test_tuple_that_is_given_twice_is_refused(last):
    """Of other keys the last value counts, but ml_collections would join those of a tuple."""
    flags = ["--config=demo", "--config.seed=1", "--config.model.widths=(8,)", "--config.seed=2"]
    argv = configuration.replace_config_name(["train.py", *flags])
    configuration.check_flags(argv)
    with pytest.raises(
        InputError, match=r"--config\.model\.widths is given 2 times, and the values"
    ):
        configuration.check_flags([*argv, *last])
