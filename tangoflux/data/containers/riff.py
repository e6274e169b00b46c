"""WAV files: RIFF, RIFX and RF64."""

from __future__ import annotations

import struct
from typing import BinaryIO

from tangoflux.data.containers.rebuilt import RebuiltFile, file_size, read_at

MAGICS = (b"RIFF", b"RIFX", b"RF64")

PLACEHOLDERS = (range(0x7FFF_F000, 0x8000_0001), range(0xFFFF_F000, 0x1_0000_0000), range(2**63 - 1, 2**64))
"""Sizes that programs write while they do not know how much will follow, as into a pipe."""

MAX_HEAD = 2**20


def rebuilt_riff(file: BinaryIO) -> RebuiltFile | None:
    """The file with the right sizes in its header if they were never filled in; None if it is right as it is.

    Raises:
        EOFError: the header says that more audio follows than there is.
    """
    magic, riff_size, _ = struct.unpack("<4sI4s", read_at(file, 0, 12).ljust(12, b"\0"))
    order = ">" if magic == b"RIFX" else "<"
    chunks = _chunks(file, order)
    if b"data" not in chunks:
        return None
    (begin, promised), size = chunks[b"data"], file_size(file)
    wide = chunks[b"ds64"][0] if magic == b"RF64" and b"ds64" in chunks else None
    if wide is not None:
        riff_size, promised = struct.unpack("<QQ", read_at(file, wide, 16).ljust(16, b"\0"))
    # A file without audio also says 0, but knows how long it is.
    if any(promised in sizes for sizes in PLACEHOLDERS) or (promised == 0 and riff_size + 8 < size - 1):
        return _with_sizes(file, order, begin, size, wide)
    if promised > size - begin:
        raise EOFError
    return None


def _chunks(file: BinaryIO, order: str) -> dict[bytes, tuple[int, int]]:
    """The chunks up to the audio's: the first byte of their content, and their size."""
    chunks: dict[bytes, tuple[int, int]] = {}
    position = 12
    while b"data" not in chunks and len(head := read_at(file, position, 8)) == 8:
        name, length = struct.unpack(f"{order}4sI", head)
        chunks[name] = position + 8, length
        position += 8 + length + length % 2
    return chunks


def _with_sizes(file: BinaryIO, order: str, begin: int, size: int, wide: int | None) -> RebuiltFile | None:
    if begin > MAX_HEAD or (wide is None and size > 0xFFFF_FFFF):
        return None
    head = bytearray(read_at(file, 0, begin))
    if wide is None:
        struct.pack_into(f"{order}I", head, 4, size - 8)
        struct.pack_into(f"{order}I", head, begin - 4, size - begin)
    else:
        struct.pack_into("<QQ", head, wide, size - 8, size - begin)
    return RebuiltFile(bytes(head), file, begin)
