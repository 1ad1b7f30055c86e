"""Tests of vae_jax/metrics/torch_file.py against torch.save."""

import collections
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from vae_jax.metrics import torch_file

torch = pytest.importorskip("torch")

LAYOUTS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def write(path: pathlib.Path, content, is_zip: bool) -> pathlib.Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def tensors() -> dict:
    """Views, shared storages and types of all kinds."""
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": base,
        "rows": base[1:3],
        "every second column": base[:, 1::2],
        "transposed": base.T,
        "repeated": torch.tensor([1.0, 2.0])[:, None].expand(2, 3),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": torch.tensor([0.5, -2.0]).half(),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "booleans": torch.tensor([True, False]),
    }


@LAYOUTS
def test_reads_what_torch_wrote(tmp_path, is_zip):
    expected = tensors()
    found = torch_file.read_state_dict(write(tmp_path / "t.pth", expected, is_zip))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy(), strict=True)


@LAYOUTS
def test_reads_a_state_dict_and_leaves_out_what_is_not_a_tensor(tmp_path, is_zip):
    state = torch.nn.BatchNorm2d(3).state_dict()  # an OrderedDict with an attribute `_metadata`
    assert isinstance(state, collections.OrderedDict)
    path = write(tmp_path / "state.pth", state | {"epoch": 3}, is_zip)
    assert torch_file.read_state_dict(path).keys() == state.keys()


class Attack:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@LAYOUTS
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, is_zip):
    victim = tmp_path / "victim"
    path = write(tmp_path / "attack.pth", {"weight": Attack(victim)}, is_zip)
    with pytest.raises(ValueError, match=r"pickle names \w+\.mkdir, which"):
        torch_file.read_state_dict(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the attack itself works"


class OutOfBounds:
    """A tensor of more numbers than its storage has."""

    def __reduce__(self):
        storage = torch.zeros(4).storage()
        return torch._utils._rebuild_tensor_v2, (storage, 1, (4,), (1,), False, {})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch.save pickles this type
@LAYOUTS
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, is_zip):
    path = write(tmp_path / "t.pth", {"weight": OutOfBounds()}, is_zip)
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        torch_file.read_state_dict(path)


@LAYOUTS
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, is_zip):
    path = write(tmp_path / "t.pth", {"weight": torch.ones(100)}, is_zip)
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 20, dtype=int):
        path.write_bytes(content[:size])
        with pytest.raises((ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)):
            torch_file.read_state_dict(path)


def test_other_contents_are_refused(tmp_path):
    path = write(tmp_path / "list.pth", [torch.ones(2)], is_zip=True)
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        torch_file.read_state_dict(path)
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(ValueError, match="header that torch.save writes"):
        torch_file.read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "")
    with pytest.raises(ValueError, match="no member"):
        torch_file.read_state_dict(path)


def test_a_big_endian_file_is_refused(tmp_path):
    path = write(tmp_path / "little.pth", {"weight": torch.ones(2)}, is_zip=True)
    with zipfile.ZipFile(path) as little, zipfile.ZipFile(tmp_path / "big.pth", "w") as big:
        for name in little.namelist():
            is_mark = name.endswith("/byteorder")
            big.writestr(name, b"big" if is_mark else little.read(name))
    with pytest.raises(ValueError, match="big-endian"):
        torch_file.read_state_dict(tmp_path / "big.pth")
