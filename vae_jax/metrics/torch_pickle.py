"""Reads the pickle inside a torch file: containers, numbers, texts, and tensors as descriptions.

A pickle is a program for a machine with a stack. It may call any function; it may build values that
take for ever to print or to hash, since a tuple can hold another one twice; and its tensors may lie
outside their storages. This machine has the instructions and the functions that tensors need. It
never prints a value, and hashes nothing but texts and numbers.
"""

import dataclasses
import math
import pickletools
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from vae_jax.errors import InputError

_MAX_AXES = 64  # NumPy's limit
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


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage as a persistent id describes it: its key and the type of its numbers."""

    key: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, counted in numbers, not bytes; the arguments of `_rebuild_tensor_v2`.

    They come from the file: call `check` before `to_array`.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self, storages: Mapping[str, bytes]) -> int:
        """Returns the number of bytes of the array.

        Raises:
          InputError: the tensor is not described by whole numbers, or lies outside its storage.
        """
        if not isinstance(self.storage, Storage) or len(self.size) > _MAX_AXES:
            raise InputError("the torch file has a tensor without a storage, or of too many axes")
        axes = list(zip(self.size, self.stride, strict=True))
        counts = [self.offset, *(count for axis in axes for count in axis)]
        if not all(type(count) is int and 0 <= count <= sys.maxsize for count in counts):
            raise InputError("the torch file has a tensor whose sizes and strides are not counts")
        itemsize = self.storage.dtype.itemsize
        num_bytes = math.prod(self.size) * itemsize  # Python's integers do not overflow
        end = self.offset + sum((length - 1) * step for length, step in axes) + 1
        if num_bytes > 0 and end * itemsize > len(storages[self.storage.key]):
            raise InputError("the torch file has a tensor that reaches beyond its storage")
        return num_bytes

    def to_array(self, storages: Mapping[str, bytes]) -> np.ndarray:
        """Returns a copy of the numbers."""
        dtype = self.storage.dtype
        if 0 in self.size:
            return np.empty(self.size, dtype)
        # Along an axis of length 1, no step is taken, and the stride may be any number.
        axes = zip(self.size, self.stride, strict=True)
        strides = [step * dtype.itemsize if length > 1 else 0 for length, step in axes]
        buffer, start = storages[self.storage.key], self.offset * dtype.itemsize
        return np.ndarray(self.size, dtype, buffer, start, strides).copy()


_GLOBALS: dict[tuple[str, str], Callable | np.dtype] = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: Tensor(*arguments[:4]),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
}
_MARK = object()
# Instructions that push their argument, a constant, or a new object.
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_WITHOUT_EFFECT = ("PROTO", "FRAME", "STOP")


class Unpickler:
    """Reads pickles with the instructions and the functions that tensors need.

    Attributes:
      storages: the storages that they refer to, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, file: BinaryIO) -> Any:
        """Returns the next object of a file, and leaves the file at the end of its pickle.

        Raises:
          InputError: the pickle has an instruction, a function, a key of a dict or a persistent id
            that tensors do not need.
          ValueError, LookupError, TypeError, AttributeError: the file ends, or is no pickle.
        """
        self._stack, self._memo = [], {}
        for opcode, argument, _ in pickletools.genops(file):
            if not (self._push(opcode.name, argument) or self._combine(opcode.name)):
                raise InputError(
                    f"the torch file's pickle has the instruction {opcode.name}, which tensors do "
                    "not need; take the file from its original source"
                )
        return self._stack[-1]

    def _push(self, name: str, argument: Any) -> bool:
        """Runs an instruction that takes nothing from the stack; returns whether it is one."""
        match name:
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case _ if name in _LITERALS:
                self._stack.append(argument)
            case _ if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            case _ if name in _CONTAINERS:
                self._stack.append(_CONTAINERS[name]())
            case "GLOBAL":
                self._stack.append(_find_global(*argument.split(" ", 1)))
            case _:
                return name in _WITHOUT_EFFECT
        return True

    def _combine(self, name: str) -> bool:
        """Runs an instruction that takes values from the stack; returns whether it is one."""
        match name:
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                self._stack.append(tuple(self._pop_to_mark()))
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._update(self._pop(2))
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "STACK_GLOBAL":
                self._stack.append(_find_global(*self._pop(2)))
            case "REDUCE":
                function, arguments = self._pop(2)
                self._stack.append(function(*arguments))
            case "BINPERSID":
                self._stack.append(self._find_storage(*self._pop(1)))
            case "BUILD":  # sets attributes, such as `_metadata` of a state dict
                self._pop(1)
            case _:
                return False
        return True

    def _pop(self, number: int) -> list[Any]:
        values = self._stack[-number:]
        del self._stack[-number:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        number = next(n for n, value in enumerate(reversed(self._stack)) if value is _MARK)
        values = self._stack[len(self._stack) - number :]
        del self._stack[len(self._stack) - number - 1 :]
        return values

    def _extend(self, values: list[Any]) -> None:
        self._stack[-1].extend(values)

    def _update(self, items: list[Any]) -> None:
        keys = items[::2]
        if not all(isinstance(key, str | int) for key in keys):
            raise InputError("the torch file has a dict with a key that is neither text nor number")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _find_storage(self, persistent_id: Any) -> Storage:
        kind, dtype, key, _location, _count, *view = persistent_id
        is_known = isinstance(dtype, np.dtype) and isinstance(key, str) and not any(view)
        if not (is_known and isinstance(kind, str) and kind == "storage"):
            raise InputError("the torch file has a persistent id of something else than a storage")
        return self.storages.setdefault(key, Storage(key, dtype))


def _find_global(module: Any, name: Any) -> Callable | np.dtype:
    """Returns a function or a type by its name; refuses all that tensors do not need."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise InputError("the torch file's pickle names a function by something else than text")
    if (module, name) not in _GLOBALS:
        raise InputError(
            f"the torch file's pickle names {module}.{name}, which tensors do not need and "
            "which could run any code; take the file from its original source"
        )
    return _GLOBALS[module, name]
