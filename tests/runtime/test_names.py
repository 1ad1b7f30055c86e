"""Tests of vae_jax/runtime/names.py."""

import os
import pathlib

import pytest

from vae_jax.errors import InputError
from vae_jax.runtime.names import LONGEST_INSIDE, LONGEST_PATH, printable, resolve_workdir

USABLE = [
    *("run[lr=0.001]", "{a,b}", "st*r", "**", "what?", "a=b", "it's", 'say "x"', "50%", "a#b"),
    *(
        "-lead",
        "--workdir",
        "trailing ",
        "a b",
        "größe",
        "日本語",
        "👩‍🔬",
        "a:b",
        "lr:1",
        "~",
        "a~",
    ),
    *("x" * 255, "..."),
]


@pytest.mark.parametrize("name", USABLE)
def test_name_is_kept_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_workdir(tmp_path / name) == tmp_path / name
    assert resolve_workdir(f"./{name}") == tmp_path / name
    resolve_workdir(f"./{name}").mkdir()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("value", ["~/run", pathlib.Path("~/run")])
def test_tilde_is_the_home_directory(value, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_workdir(value) == tmp_path / "run"
    assert resolve_workdir("~") == tmp_path


def test_home_of_another_user_and_without_the_variable(monkeypatch):
    monkeypatch.delenv("HOME")
    home = pathlib.Path(os.path.expanduser("~"))  # from the list of users
    assert resolve_workdir("~/run") == home / "run"
    assert resolve_workdir("~root/run").parts[-1] == "run"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *[(value, "is empty") for value in ("", " ", "\n")],
        *[(f"{s}://x/run", "URLs are not") for s in ("gs", "s3", "hdfs", "file", "https")],
        (pathlib.Path("gs://x/run"), "gs:/x/run: URLs are not"),
        *[(f"a{c}b", "control characters") for c in "\0\n\t\r\x1b\x7f\x85\u2028"],
        ("a\udc80b", r"a\\udc80b: not UTF-8"),
        ("a\\b", "backslash"),
        *[(f"/{root}/run", "would be read as a URL") for root in ("gs", "s3", "az", "hf")],
        ("~no-such-user/run", "no home directory"),
        ("x" * 256, "256 bytes, but the file system takes 255"),
        ("ä" * 128, "256 bytes, but the file system takes 255"),
    ],
)
def test_unusable_name_is_refused(value, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        resolve_workdir(value, "--output")
    assert str(caught.value).startswith("--output") and str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_home_that_is_empty_or_unknown_is_refused(monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(InputError, match="Set HOME"):
        resolve_workdir("~/run")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, not in the user list
    with pytest.raises(InputError, match="Set HOME"):
        resolve_workdir("~/run")


def test_longest_path_leaves_room_for_the_files_of_a_run():
    longest = "/" + "/".join(["x" * 99] * 40)
    longest = longest[: LONGEST_PATH - LONGEST_INSIDE]
    assert resolve_workdir(longest) == pathlib.Path(longest)
    with pytest.raises(InputError, match="leave room for the files"):
        resolve_workdir(longest + "x")


def test_names_of_the_current_directory_count(tmp_path, monkeypatch):
    for name, message in (("a\\b", "backslash"), ("a\nb", "control characters")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with pytest.raises(InputError, match=message):
            resolve_workdir("run")


def test_removed_current_directory_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="current directory no longer exists"):
        resolve_workdir("run")
    assert resolve_workdir(tmp_path) == tmp_path


def test_printable_is_one_line():
    assert printable("a\n\x1b[31m\udc80ä") == r"a\n\x1b[31m\udc80ä"
