"""Files of weights that want to harm: each is refused in one line, at once, in little memory.

The files are small: what they claim, or what they would become, is large.
"""

import gzip
import io
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from vae_jax.errors import InputError
from vae_jax.metrics import archives, graph_file, inception_weights, torch_file

LAYOUTS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def message_of(path: pathlib.Path) -> str:
    with pytest.raises(InputError) as caught:
        inception_weights.read(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and len(message) < 1000
    return message


# Pickles


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def integer(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def integers(values: tuple[int, ...]) -> bytes:
    return pickle.MARK + b"".join(map(integer, values)) + pickle.TUPLE


STORAGE = (
    *(pickle.MARK, text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu")),
    *(integer(4), pickle.TUPLE, pickle.BINPERSID),
)


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    """Pickles a state dict with one tensor of a storage of four numbers."""
    call = (b"ctorch._utils\n_rebuild_tensor_v2\n", pickle.MARK, *STORAGE, offset, size, stride)
    parts = (pickle.EMPTY_DICT, text("weight"), *call, pickle.TUPLE, pickle.REDUCE, pickle.SETITEM)
    return b"".join(parts) + pickle.STOP


def write_torch(path: pathlib.Path, pickled: bytes, is_zip: bool = True) -> pathlib.Path:
    """Writes a torch file with this pickle, and a storage of the numbers 0 to 3."""
    numbers = np.arange(4, dtype="<f4").tobytes()
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", pickled)
            archive.writestr("w/data/0", numbers)
    else:
        start = [0x1950A86A20F9469CFC6C, 1001, {}]
        pickles = b"".join(pickle.dumps(value, protocol=2) for value in start)
        keys = pickle.dumps(["0"], protocol=2)
        path.write_bytes(pickles + pickled + keys + (4).to_bytes(8, "little") + numbers)
    return path


DOUBLE = pickle.BINGET + b"\0" + pickle.BINGET + b"\0" + pickle.TUPLE2 + pickle.BINPUT + b"\0"
# A tuple of 2**100 texts, which holds everything twice.
NESTED = text("a") + pickle.BINPUT + b"\0" + 100 * DOUBLE
PICKLES = {
    "persistent id without end": NESTED + pickle.BINPERSID,
    "kind without end": b"(" + NESTED + b"NNNNt" + pickle.BINPERSID,
    "key of a storage without end": b"".join(STORAGE[:3]) + NESTED + b"NNt" + pickle.BINPERSID,
    "view of a storage without end": b"".join(STORAGE[:-2]) + NESTED + b"t" + pickle.BINPERSID,
    "key of a dict without end": pickle.EMPTY_DICT + NESTED + b"N" + pickle.SETITEM,
    "keys of a dict without end": pickle.EMPTY_DICT + b"(" + NESTED + b"N" + pickle.SETITEMS,
    "ordered dict of keys without end": b"ccollections\nOrderedDict\n](" + NESTED + b"N\x86e\x85R",
    "name of a function without end": NESTED + NESTED + pickle.STACK_GLOBAL,
    "function without end": NESTED + b")" + pickle.REDUCE,
    "state dict without end": NESTED,
    "lists in themselves": b"]" + pickle.BINPUT + b"\1" + 50 * (pickle.BINGET + b"\1" + b"a"),
    "memo of gigabytes": b"N" + pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1),
    "frame of exabytes": pickle.FRAME + struct.pack("<Q", 2**62),
    "text of 4 GB": pickle.BINUNICODE + struct.pack("<I", 2**32 - 1),
    "text of exabytes": pickle.BINUNICODE8 + struct.pack("<Q", 2**62),
    "bytes of exabytes": pickle.BINBYTES8 + struct.pack("<Q", 2**62),
    "bytearray of exabytes": pickle.BYTEARRAY8 + struct.pack("<Q", 2**62),
    "integer of 2 GB": pickle.LONG4 + struct.pack("<i", 2**31 - 1),
    "integer in decimal": b"L" + 5000 * b"9" + b"L\n",
    "duplicate": b"N" + pickle.DUP,
    "object": b"(cbuiltins\nprint\n" + pickle.OBJ,
    "instance": b"(ibuiltins\nprint\n",
    "function": b"cos\nsystem\n" + text("true") + b"\x85R",
    "function with control characters": text("\x1b[2Ja\n") + text("b") + pickle.STACK_GLOBAL,
    "extension": pickle.EXT1 + b"\1",
    "set": pickle.EMPTY_SET,
    "unknown instruction": b"\xff",
    "nothing on the stack": pickle.TUPLE2,
    "no mark": b"N" + pickle.TUPLE,
    "nothing in the memo": pickle.BINGET + b"\7",
    "value called": text("a") + b")" + pickle.REDUCE,
    "text extended": text("a") + b"N" + pickle.APPEND,
}


@LAYOUTS
@pytest.mark.parametrize("case", PICKLES)
def test_pickle_is_refused(case, is_zip, tmp_path):
    message_of(write_torch(tmp_path / "w.pth", PICKLES[case] + pickle.STOP, is_zip))


@LAYOUTS
def test_pickle_without_end_is_refused(is_zip, tmp_path):
    message_of(write_torch(tmp_path / "w.pth", b"N", is_zip))


def test_long_pickle_is_refused(tmp_path):
    pickled = pickle.dumps({"w": list(range(100_000))}, protocol=2)
    message = message_of(write_torch(tmp_path / "w.pth", pickled))
    assert "pickle has over 262,144 bytes" in message


# Tensors

HUGE = 2**62
TENSORS = {
    "stride that overflows": (0, (2, 2), (HUGE, 1)),
    "strides whose sum overflows": (0, (3, 3), (HUGE, HUGE)),
    "stride that wraps to 0": (0, (2,), (2**64 // 4,)),
    "negative stride": (3, (2,), (-1,)),
    "negative offset": (-1, (2,), (1,)),
    "negative size": (0, (-1, -4), (4, 1)),
    "offset beyond the end": (4, (1,), (1,)),
    "offset that overflows": (HUGE, (1,), (1,)),
    "one number beyond the end": (0, (2, 2), (3, 1)),
    "size that overflows": (0, (HUGE, HUGE), (0, 0)),
    "one number for terabytes": (0, (2**40,), (0,)),
    "long numbers": (0, (2**900, 2**900), (0, 0)),
    "many axes": (0, (1,) * 200, (1,) * 200),
    "fewer strides than sizes": (0, (2, 2), (1,)),
}


@LAYOUTS
@pytest.mark.parametrize("case", TENSORS)
def test_tensor_outside_its_storage_is_refused(case, is_zip, tmp_path):
    offset, size, stride = TENSORS[case]
    pickled = tensor(integer(offset), integers(size), integers(stride))
    message_of(write_torch(tmp_path / "w.pth", pickled, is_zip))


@pytest.mark.parametrize("size", [pickle.NONE, text("2"), b"(\x88t", b"(G" + bytes(8) + b"t", b"]"])
def test_sizes_that_are_no_counts_are_refused(size, tmp_path):
    pickled = tensor(integer(0), size, integers((1,)))
    message_of(write_torch(tmp_path / "w.pth", pickled))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "expected"),
    [
        (1, (3,), (1,), [1, 2, 3]),
        (0, (2, 2), (1, 2), [[0, 2], [1, 3]]),
        (3, (), (), 3),
        (3, (2, 1), (0, HUGE), [[3], [3]]),
        (HUGE, (0, 3), (HUGE, HUGE), np.empty((0, 3))),
    ],
)
def test_tensor_inside_its_storage_is_read(offset, size, stride, expected, tmp_path):
    pickled = tensor(integer(offset), integers(size), integers(stride))
    found = torch_file.read_state_dict(write_torch(tmp_path / "w.pth", pickled))
    np.testing.assert_array_equal(found["weight"], np.asarray(expected, np.float32), strict=True)


def test_one_tensor_under_many_names_is_counted_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 5000)  # the file itself has fewer
    one = tensor(integer(0), integers((100,)), integers((0,)))[len(pickle.EMPTY_DICT) : -2]
    names = b"".join(text(str(n)) + b"h\1s" for n in range(20))
    pickled = b"}" + one + pickle.BINPUT + b"\1s" + names + b"."
    path = write_torch(tmp_path / "w.pth", pickled)
    assert "tensors of the torch file have over 5,000 bytes" in message_of(path)


# Archives


@pytest.fixture
def small_limits(monkeypatch):
    """A megabyte of content, and ten parts."""
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)
    monkeypatch.setattr(archives, "MAX_PARTS", 10)


def assert_little_memory(path: pathlib.Path) -> str:
    """Returns the message of a bomb, after asserting that it did not go off."""
    tracemalloc.start()
    try:
        message = message_of(path)
        assert tracemalloc.get_traced_memory()[1] < len(BOMB) / 2
    finally:
        tracemalloc.stop()
    return message


def zip_of(content: bytes, name: str = "w/conv.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


BOMB = bytes(16 * 2**20)


@pytest.mark.parametrize("name", ["w.npz", "w.pth"])
@pytest.mark.parametrize("declared", [len(BOMB), 2**19])
def test_zip_bomb_is_refused_whatever_it_declares(name, declared, tmp_path, small_limits):
    member = "w/data.pkl" if name == "w.pth" else "w/conv.npy"
    sizes = (struct.pack("<I", size) for size in (len(BOMB), declared))
    content = zip_of(BOMB, member).replace(*sizes)
    (tmp_path / name).write_bytes(content)
    message = assert_little_memory(tmp_path / name)
    assert ("more than 1,048,576 bytes" if declared > 2**20 else "Bad CRC-32") in message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(method, tmp_path):
    (tmp_path / "w.npz").write_bytes(zip_of(b"", method=method))
    assert "neither stored nor deflated" in message_of(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["w.npz", "w.pth"])
def test_zip_of_many_members_is_refused(name, tmp_path, small_limits):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for number in range(11):
            archive.writestr(f"w/{number}", b"")
    assert "more than 10 parts" in message_of(tmp_path / name)


def test_array_in_an_archive_with_a_header_of_terabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 64)}"
        for name in ("w/conv.npy", "b/conv.npy"):
            content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
            archive.writestr(name, content)
    message_of(tmp_path / "w.npz")


@pytest.mark.parametrize("dtype", ["<c8", "<U4", "<M8[s]", "?", "<i4"])
@pytest.mark.filterwarnings("error")
def test_numbers_of_another_kind_are_refused(dtype, tmp_path):
    arrays = {"w/conv": np.ones((3, 3, 3, 32)).astype(dtype), "b/conv": np.ones(32)}
    np.savez(tmp_path / "w.npz", **arrays)
    assert "layer 'conv' has numbers of type" in message_of(tmp_path / "w.npz")


def test_pickle_in_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **{"w/conv": np.array([None]), "b/conv": np.ones(32)})
    assert "Object arrays cannot be loaded" in message_of(tmp_path / "w.npz")


def test_gzip_bomb_is_refused(tmp_path, small_limits):
    (tmp_path / "w.tgz").write_bytes(gzip.compress(BOMB))
    assert "more than 1,048,576 bytes" in assert_little_memory(tmp_path / "w.tgz")


def test_gzip_of_many_parts_is_refused(tmp_path, small_limits):
    (tmp_path / "w.tgz").write_bytes(11 * gzip.compress(b""))
    assert "more than 10 parts" in message_of(tmp_path / "w.tgz")


def tar_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    header = name.encode().ljust(124, b"\0") + size.ljust(12, b"\0") + bytes(20) + kind
    return header.ljust(512, b"\0")


GRAPH_FILE = "classify_image_graph_def.pb"
TARS = {
    "link": (tar_header(GRAPH_FILE, b"0", b"2"), "the archive has no classify"),
    "negative size": (tar_header("a", b"-1000"), "ends within 'a'"),
    "size of exabytes": (tar_header("a", b"7" * 12), "ends within 'a'"),
    "size not a number": (tar_header("a", b"size"), "ValueError"),
    "truncated graph": (tar_header(GRAPH_FILE, b"1000") + bytes(511), "ends within"),
    "many members": (11 * tar_header("a", b"0"), "the archive has no classify"),
}


@pytest.mark.parametrize("case", TARS)
def test_tar_is_refused(case, tmp_path, small_limits):
    content, reason = TARS[case]
    (tmp_path / "w.tgz").write_bytes(gzip.compress(content))
    assert reason in message_of(tmp_path / "w.tgz")


# Graphs


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, shorter than 128."""
    return bytes([number << 3 | 2, len(value)]) + value


def constant(dims: list[int], content: bytes, dtype: int = 1) -> bytes:
    """A graph of the softmax layer, whose arrays are one constant."""
    sizes = b"".join(field(2, b"\x08" + varint(size)) for size in dims)
    tensor_field = field(8, b"\x08" + varint(dtype) + field(2, sizes) + field(4, content))
    attribute = field(5, field(1, b"value") + field(2, tensor_field))
    names = (b"softmax/weights", b"softmax/biases")
    return b"".join(field(1, field(1, name) + attribute) for name in names)


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


GRAPHS = {
    "number without end": (b"\x0a" + 20 * b"\xff", "more than ten bytes"),
    "number that is cut off": (b"\x0a\xff", "ends within a number"),
    "length beyond the end": (b"\x0a\x05abc", "ends within a field"),
    "length of exabytes": (b"\x0a" + varint(2**63 - 1), "ends within a field"),
    "group": (b"\x0b\x0b\x0b", "unknown kind 3"),
    "number in place of a node": (b"\x08\x01", "TypeError"),
    "attribute in place of a text": (field(1, field(1, b"\xff")), "UnicodeDecodeError"),
    "node without a value": (field(1, field(1, b"softmax/weights")), "KeyError"),
    "shape of exabytes": (constant([2**31, 2**31], bytes(8)), "ValueError"),
    "one number for exabytes": (constant([2**31, 2**31], bytes(4)), "ValueError"),
    "one number for terabytes": (constant([2**40], bytes(4)), "layers are missing"),
    "size beyond int64": (constant([2**64 - 1], bytes(8)), "Error"),
    "odd number of bytes": (constant([1], bytes(5)), "ValueError"),
    "other type": (constant([1], bytes(4), dtype=7), "has type 7, not float"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graph_is_refused(case, tmp_path):
    content, reason = GRAPHS[case]
    (tmp_path / "w.pb").write_bytes(content)
    assert reason in message_of(tmp_path / "w.pb")


@pytest.mark.parametrize("content", [b"\x0a\0", field(1, field(5, b"")), field(1, b"\x08\0")])
def test_graph_of_many_fields_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_file, "MAX_FIELDS", 100)
    (tmp_path / "w.pb").write_bytes(101 * content)
    assert "more than 100 fields" in message_of(tmp_path / "w.pb")


# Paths


@pytest.mark.parametrize("kind", ["directory", "pipe"])
@pytest.mark.parametrize("ending", [".npz", ".pth", ".tgz", ".pb"])
def test_what_is_not_a_file_is_refused(kind, ending, tmp_path):
    path = tmp_path / f"weights{ending}"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    assert f"is not a regular file, but a {kind}" in message_of(path)


def test_large_file_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "w.npz").touch()
    os.truncate(tmp_path / "w.npz", archives.MAX_BYTES + 1)  # takes no space on disk
    assert "it has 134,217,729 bytes" in assert_little_memory(tmp_path / "w.npz")


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vae_jax.files.open", refuse, raising=False)  # root may read everything
    (tmp_path / "w.npz").touch()
    assert "cannot be read (Permission denied). Give" in message_of(tmp_path / "w.npz")


@pytest.mark.parametrize("path", ["~nobody_of_this_name/w.npz", "/a\0b.npz", "/" + "x" * 300])
def test_impossible_path_is_refused(path):
    with pytest.raises(InputError, match="^inception_weights=.*(Give another path|Set HOME)"):
        inception_weights.read(path)
