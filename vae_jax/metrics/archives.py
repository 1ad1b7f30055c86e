"""Reads zip, gzip and tar archives from anywhere, with bounds on time and memory.

An archive may say that it holds little and hold a lot, or hold very many small parts. Here, no more
is read than it says, and what it says has a limit.
"""

import gzip
import io
import pathlib
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from vae_jax.errors import InputError

MAX_BYTES = 128 * 2**20  # of a file and of its content; the whole Inception-v3 has 95 MB
MAX_PARTS = 10_000  # of an archive; a torch file of the Inception-v3 has 572
_CHUNK_BYTES = 2**20
_TAR_BLOCK_BYTES = 512


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip archive.

    Raises:
      InputError: it has too many members, they are too large, or their compression is unusual.
      zipfile.BadZipFile: it is no zip archive.
    """
    _check_parts(_chunks(file), b"PK\1\2")
    file.seek(0)
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    _check_size(sum(member.file_size for member in members))
    usual = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # `zipfile` reads others without a bound
    if any(member.compress_type not in usual for member in members):
        raise InputError("a member of the zip archive is neither stored nor deflated")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns the content of a member, after checking its checksum.

    Raises:
      KeyError: there is no such member.
      zipfile.BadZipFile, zlib.error, EOFError: it is damaged.
    """
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        return member.read(size)  # without a size, it would first decompress everything


def gunzip(content: bytes) -> bytes:
    """Decompresses gzipped bytes, and checks their checksum.

    Raises:
      InputError: they are too long, or have too many parts.
      gzip.BadGzipFile, zlib.error, EOFError: they are damaged or end too early.
    """
    _check_parts([content], b"\x1f\x8b\x08")
    decompressed = io.BytesIO()
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        for chunk in _chunks(file):
            decompressed.write(chunk)
            _check_size(decompressed.tell())
    return decompressed.getvalue()


def read_tar_member(content: bytes, name: str) -> bytes:
    """Returns the content of a regular file of a tar archive, in any of its directories.

    `tarfile` would follow links and read extensions of the format, which may take it for ever.

    Raises:
      InputError: there is no such file, or the archive ends within it.
      ValueError: it is no tar archive.
    """
    position = 0
    for _ in range(MAX_PARTS):
        header = content[position : position + _TAR_BLOCK_BYTES]
        position += _TAR_BLOCK_BYTES
        if not header.strip(b"\0"):  # the end of the archive
            break
        member = header[:100].split(b"\0")[0].decode("latin-1")
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        if not 0 <= size <= len(content) - position:
            raise InputError(f"the archive ends within {member!r}")
        if pathlib.PurePosixPath(member).name == name and header[156:157] in (b"0", b"\0"):
            return content[position : position + size]
        position += -(-size // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
    raise InputError(f"the archive has no {name}")


def _chunks(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _check_parts(chunks: Iterator[bytes] | list[bytes], signature: bytes) -> None:
    """Counts the bytes that every part begins with; among numbers, they are rare."""
    if sum(chunk.count(signature) for chunk in chunks) > MAX_PARTS:
        raise InputError(f"the archive has more than {MAX_PARTS:,} parts")


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise InputError(f"the archive holds more than {MAX_BYTES:,} bytes")
