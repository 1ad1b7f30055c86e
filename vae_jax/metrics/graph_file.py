"""Reads the constants of a frozen TensorFlow graph, without TensorFlow and its protocol buffers.

A graph is a message, a sequence of fields: each has a number in place of a name, and a value. The
numbers are those of graph.proto, node_def.proto, attr_value.proto, tensor.proto and
tensor_shape.proto in tensorflow/core/framework. This reader knows the few that constants need, and
bounds the number of fields: a small file may hold a great many of them.
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from vae_jax.errors import InputError

MAX_FIELDS = 100_000  # of a graph; the network has some 1,000 nodes of 25 fields
_DT_FLOAT = 1
_SIZES = {1: 8, 5: 4}  # kind of a field of fixed size -> bytes
_Fields = dict[int, list[Any]]  # number -> values: integers, or views of bytes


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
      op: name of its operation.
      attributes: name -> fields of the attribute's value.
    """

    op: str
    attributes: dict[str, _Fields]
    _budget: Iterator[int]

    def number(self, key: str) -> float:
        """Returns an attribute that is a float; what is missing is 0, as in protocol buffers."""
        (number,) = struct.unpack("<f", _last(self.attributes[key], 4, bytes(4)))
        return number

    def flag(self, key: str) -> bool:
        """Returns an attribute that is a boolean."""
        return bool(_last(self.attributes[key], 5, 0))

    def array(self) -> np.ndarray:
        """Returns the value of a constant, float32.

        Raises:
          InputError: it has another type.
          KeyError: the node is no constant.
          ValueError: it does not have as many numbers as its shape says.
        """
        tensor = _decode(_last(self.attributes["value"], 8), self._budget)
        if _last(tensor, 1, 0) != _DT_FLOAT:
            raise InputError(f"a constant of the graph has type {_last(tensor, 1, 0)}, not float")
        dims = _decode(_last(tensor, 2), self._budget).get(2, [])
        shape = tuple(_last(_decode(dim, self._budget), 1, 0) for dim in dims)
        numbers = np.frombuffer(_last(tensor, 4) or b"".join(tensor.get(5, [])), "<f4")
        # One number stands for all; this takes no memory, whatever the shape.
        return np.broadcast_to(numbers, shape) if numbers.size == 1 else numbers.reshape(shape)


def read_graph(content: bytes) -> dict[str, Node]:
    """Returns the nodes of a graph by name.

    Raises:
      InputError: the graph ends too early, or has too many fields.
      TypeError, ValueError: it is no graph.
    """
    budget = iter(range(MAX_FIELDS))
    nodes = {}
    for encoded in _decode(memoryview(content), budget).get(1, []):
        node = _decode(encoded, budget)
        entries = [_decode(entry, budget) for entry in node.get(5, [])]
        attributes = {_text(entry, 1): _decode(_last(entry, 2), budget) for entry in entries}
        nodes[_text(node, 1)] = Node(_text(node, 2), attributes, budget)
    return nodes


def _decode(message: memoryview, budget: Iterator[int]) -> _Fields:
    """Returns the fields of an encoded message; takes one from `budget` for each."""
    fields: _Fields = {}
    position = 0
    while position < len(message):
        if next(budget, None) is None:
            raise InputError(f"the graph has more than {MAX_FIELDS:,} fields")
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind not in (0, 2, *_SIZES):
            raise InputError(f"the graph has a field of the unknown kind {kind}")
        value: Any = _SIZES.get(kind)
        if value is None:  # a number, or the length of what follows
            value, position = _read_varint(message, position)
        if kind != 0:
            end = position + value
            value, position = message[position:end], end
            if end > len(message):
                raise InputError("the graph ends within a field")
        fields.setdefault(number, []).append(value)
    return fields


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns an integer of variable length, seven bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise InputError("the graph ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise InputError("the graph has a number of more than ten bytes")


def _last(fields: _Fields, number: int, default: Any = b"") -> Any:
    """Returns the value of a field that should have one; the last of several holds."""
    return fields.get(number, [default])[-1]


def _text(fields: _Fields, number: int) -> str:
    return bytes(_last(fields, number)).decode()
