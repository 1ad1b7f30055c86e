"""Reads the tensors of a file written by `torch.save`, without torch and without running its code.

A torch file consists of a pickle and of storages, which are raw numbers. In the pickle, a tensor is
a call of `_rebuild_tensor_v2` on a persistent id, which names a storage. torch/serialization.py
describes two layouts:

- Since torch 1.6: a zip archive with `*/data.pkl` and `*/data/KEY`.
- Before that ("legacy"): a sequence of pickles. The fourth is the object, the fifth the list of
  storage keys. Then follow, for each key, a count (int64) and the numbers.

`torch_pickle` reads the pickles, and has the rules for what they may do.
"""

import io
import os
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from vae_jax.errors import InputError
from vae_jax.files import open_regular
from vae_jax.metrics import archives
from vae_jax.metrics.torch_pickle import Tensor, Unpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE_BYTES = 2**18  # the whole network has 80,000, and each byte may be an instruction


def read_state_dict(path: os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a saved state dict by name. Other values are left out.

    Raises:
      InputError: the file is truncated, holds no dict or too much, or its pickle does what tensors
        do not need.
      ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile: the file is
        not a torch file, or it is damaged.
    """
    with open_regular(path) as file:
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        state, storages = _read_zip(file) if is_zip else _read_legacy(file)
    if not isinstance(state, Mapping):
        raise InputError(f"the torch file holds a {type(state).__name__}, not a state dict")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if sum(tensor.check(storages) for tensor in tensors.values()) > archives.MAX_BYTES:
        raise InputError(f"the tensors of the torch file have over {archives.MAX_BYTES:,} bytes")
    return {name: tensor.to_array(storages) for name, tensor in tensors.items()}


def _read_zip(file: BinaryIO) -> tuple[object, dict[str, bytes]]:
    with archives.open_zip(file) as archive:
        names = archive.namelist()
        root = next((name for name in names if name.endswith("/data.pkl")), None)
        if root is None:
            raise InputError(
                "the zip archive has no member */data.pkl: torch.save did not write it"
            )
        root = root.removesuffix("data.pkl")
        byteorder = f"{root}byteorder"
        if byteorder in names and archives.read_member(archive, byteorder) != b"little":
            raise InputError(
                "the torch file is big-endian; save it again on a little-endian machine"
            )
        content = archives.read_member(archive, f"{root}data.pkl")
        if len(content) > _MAX_PICKLE_BYTES:
            raise InputError(f"the torch file's pickle has over {_MAX_PICKLE_BYTES:,} bytes")
        unpickler = Unpickler()
        state = unpickler.load(io.BytesIO(content))
        keys = unpickler.storages
        return state, {key: archives.read_member(archive, f"{root}data/{key}") for key in keys}


def _read_legacy(file: BinaryIO) -> tuple[object, dict[str, bytes]]:
    start = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
    unpickler = Unpickler()
    magic = unpickler.load(start)
    if not isinstance(magic, int) or magic != _LEGACY_MAGIC:
        raise InputError("the file does not begin with the header that torch.save writes")
    for _ in ("protocol version", "system information"):
        unpickler.load(start)
    state, keys = unpickler.load(start), unpickler.load(start)
    file.seek(start.tell())
    size = os.fstat(file.fileno()).st_size
    storages = {}
    for key in keys:
        if not isinstance(key, str):
            raise InputError("the torch file has a storage whose key is no text")
        num_bytes = int.from_bytes(file.read(8), "little") * unpickler.storages[key].dtype.itemsize
        if num_bytes > size - file.tell():
            raise InputError(f"the torch file ends before the end of storage {key}")
        storages[key] = file.read(num_bytes)
    return state, storages
