"""Reads the tensors of a file written by `torch.save`, without torch and without running its code.

A torch file consists of a pickle and of storages, which are raw numbers. In the pickle, a tensor is
a call of `_rebuild_tensor_v2` on a persistent id, which names a storage. torch/serialization.py
describes two layouts:

- Since torch 1.6: a zip archive with `*/data.pkl` and `*/data/KEY`.
- Before that ("legacy"): a sequence of pickles. The fourth is the object, the fifth the list of
  storage keys. Then follow, for each key, a count (int64) and the numbers.

A pickle may name any function, which runs when the pickle is read. This reader knows the few
functions that tensors need and refuses all others.
"""

import collections
import dataclasses
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from vae_jax.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def read_state_dict(path: os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a saved state dict by name. Other values are left out.

    Raises:
      InputError: the file is truncated, holds no dict, or its pickle names something that tensors
        do not need.
      pickle.UnpicklingError, EOFError, zipfile.BadZipFile: the file is not a torch file, or it is
        damaged.
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        state, storages = _read_zip(file) if is_zip else _read_legacy(file)
    if not isinstance(state, Mapping):
        raise InputError(f"the torch file holds a {type(state).__name__}, not a state dict")
    tensors = {name: value for name, value in state.items() if isinstance(value, _Tensor)}
    return {name: tensor.to_array(storages) for name, tensor in tensors.items()}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A storage as a persistent id describes it: its key and the type of its numbers."""

    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, counted in numbers, not bytes; the arguments of `_rebuild_tensor_v2`."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def to_array(self, storages: Mapping[str, bytes]) -> np.ndarray:
        """Returns a copy of the numbers."""
        # `np.ndarray` refuses a view that leaves its buffer; `as_strided` would read past the end.
        dtype = self.storage.dtype
        strides = [step * dtype.itemsize for step in self.stride]
        buffer, start = storages[self.storage.key], self.offset * dtype.itemsize
        return np.ndarray(self.size, dtype, buffer, start, strides).copy()


_GLOBALS: dict[tuple[str, str], Callable | np.dtype] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Tensor(*arguments[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Resolves `_GLOBALS` only, and collects the storages that the pickle refers to."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise InputError(
                f"the torch file's pickle names {module}.{name}, which tensors do not need and "
                "which could run any code; take the file from its original source"
            )
        return _GLOBALS[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        kind, dtype, key, _location, _count, *view = pid
        if kind != "storage" or any(view):
            raise InputError(
                f"the torch file has a persistent id {pid}; only ids of storages are supported"
            )
        return self.storages.setdefault(key, _Storage(key, dtype))


def _read_zip(file: BinaryIO) -> tuple[object, dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next((name for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise InputError(
                "the zip archive has no member */data.pkl: torch.save did not write it"
            )
        root = root.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise InputError(
                "the torch file is big-endian; save it again on a little-endian machine"
            )
        unpickler = _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")))
        state = unpickler.load()
        return state, {key: archive.read(f"{root}data/{key}") for key in unpickler.storages}


def _read_legacy(file: BinaryIO) -> tuple[object, dict[str, bytes]]:
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise InputError("the file does not begin with the header that torch.save writes")
    for _ in ("protocol version", "system information"):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    state, keys = unpickler.load(), _Unpickler(file).load()
    storages = {}
    for key in keys:
        num_bytes = int.from_bytes(file.read(8), "little") * unpickler.storages[key].dtype.itemsize
        storages[key] = file.read(num_bytes)
        if len(storages[key]) != num_bytes:
            raise InputError(f"the torch file ends before the end of storage {key}")
    return state, storages
