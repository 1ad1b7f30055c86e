"""Tests of the writers of text and JSON files."""

import ast
import json
import math
import os

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from vae_jax import files

NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("convert", [float, np.float32, np.float64])
def test_number_that_is_not_finite_is_null_with_the_reason_beside_it(name, convert):
    text = files.to_json({"elbo": convert(NUMBERS[name]), "step": 3})
    assert json.loads(text) == {"elbo": None, "elbo/not_finite": name, "step": 3}
    found = files.parse_json(text)
    np.testing.assert_equal(found, {"elbo": NUMBERS[name], "step": 3})


@pytest.mark.parametrize(
    "content",
    [
        {"a": {"b": [1.0, math.nan, [2.0, -math.inf]]}, "c": "NaN", "d": None},
        [{"a": math.inf}, {"a": 1}],
        {"rates": np.array([0.5, np.nan]), "of": (1, 2)},
        {"é": "ü\u2028", "": math.nan},
    ],
)
def test_what_is_written_is_strict_json_and_is_read_back(content):
    text = files.to_json(content)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple | np.ndarray):
            return [plain(item) for item in value]
        return value

    np.testing.assert_equal(files.parse_json(text), plain(content))


def test_list_at_the_top_keeps_its_reason():
    assert files.parse_json(files.to_json([1.0, math.nan]))["value"][0] == 1.0
    assert json.loads(files.to_json([math.nan])) == {
        "value": [None],
        "value/not_finite": {"0": "nan"},
    }


def test_deeply_nested_json_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        files.parse_json("[" * 100_000)


def test_file_is_replaced_whole_and_a_link_is_not_followed(tmp_path):
    outside, link = tmp_path / "outside.txt", tmp_path / "link.txt"
    outside.write_text("theirs", encoding="utf-8")
    link.symlink_to(outside)
    files.write_text(link, "ours ± é")
    assert outside.read_text(encoding="utf-8") == "theirs"
    assert link.read_bytes() == "ours ± é".encode() and not link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.txt", "outside.txt"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.parse_json(files.read_text(path)) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_new_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        files.read_text(tmp_path / "pipe")


def test_path_from_a_locale_that_is_not_utf_8_is_written_as_its_bytes(tmp_path):
    files.write_text(tmp_path / "a.md", "\udcc3\udca9")  # é, as an ASCII locale decodes it
    assert files.read_text(tmp_path / "a.md") == "é"
    files.write_text(tmp_path / "a.md", "\udce9")  # é in Latin-1
    assert files.read_text(tmp_path / "a.md") == r"\xe9"


@pytest.mark.parametrize("text", ["", "{", '{"a": null, "a/not_finite": [1]}', "[" * 100_000])
def test_damaged_json_says_what_to_do(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="a.json is damaged .*put back a copy"):
        files.read_json(tmp_path / "a.json")


# Text without an encoding depends on the locale. Ruff sees only part of such calls (PLW1514).


@pytest.mark.parametrize("folder", ["vae_jax", "scripts", "benchmarks", "configs"])
def test_text_has_an_encoding(folder):
    found = []
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("read_text", "write_text")
                and ast.unparse(node.func.value) != "files"
                and "encoding" not in [keyword.arg for keyword in node.keywords]
            ):
                found.append(f"{path}:{node.lineno}")
    assert not found


def test_missing_and_damaged_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        files.read_text(tmp_path / "nothing")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match="latin is damaged"):
        files.read_text(tmp_path / "latin")


def test_only_old_files_of_writers_that_were_killed_are_removed(tmp_path):
    """Not one that may still be written, nor a file of the user that looks similar."""
    names = (".a.json.12.tmp", "images/.b\n.png.3.tmp", ".c.4711.tmp")
    kept = (".d.json.tmp", "e.12.tmp", ".f.12.tmp2", "images/.g.x.tmp", ".new.12.tmp")
    (tmp_path / "images").mkdir()
    for name in (*names, *kept):
        (tmp_path / name).touch()
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    files.remove_abandoned(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(kept)


def test_name_of_a_file_that_is_being_written_is_one_that_is_removed(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "fsync", lambda _: names.extend(p.name for p in tmp_path.iterdir()))
    files.write_text(tmp_path / ("long " * 40), "text")
    assert len(names) == 1 and files.ABANDONED.fullmatch(names[0])
