"""Ogg files: Vorbis, Opus, FLAC in Ogg."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from tangoflux.data.containers.rebuilt import file_size, read_at

MAGIC = b"OggS"
MAX_PAGE = 27 + 255 + 255 * 255
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_ogg(file: BinaryIO) -> None:
    """Checks what libsndfile does not: it reads the first of several streams, accepts any page as the last, and takes
    a damaged page for the end.

    Raises:
        EOFError: the last page (RFC 3533, section 6) is not marked as such, or incomplete: the file was cut off.
        OSError: a page is damaged, or streams follow each other.
    """
    tail = read_at(file, max(0, file_size(file) - MAX_PAGE), MAX_PAGE)
    last = tail[max(0, tail.rfind(MAGIC)) :]
    # Other data may follow, such as a tag.
    if len(last) < 28 or not last[5] & 4 or _page_size(last) > len(last):
        raise EOFError
    _check_pages(file, file_size(file) - len(last) + _page_size(last))


def _check_pages(file: BinaryIO, end: int) -> None:
    position, has_data = 0, False
    while position < end:
        page = read_at(file, position, MAX_PAGE)
        page = page[: _page_size(page)] if page[:4] == MAGIC and len(page) > 27 else b""
        if not page or _checksum(page) != int.from_bytes(page[22:26], "little"):
            raise OSError(f"its Ogg page at byte {position} is damaged")
        is_first = bool(page[5] & 2)
        if is_first and has_data:
            raise OSError("streams follow each other in this Ogg file; convert it to one stream")
        has_data = not is_first
        position += len(page)


def _checksum(page: bytes) -> int:
    """The CRC-32 of a page, which begins at 0 and has the bits in the other order than zlib's."""
    crc = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _page_size(page: bytes) -> int:
    return 27 + page[26] + sum(page[27 : 27 + page[26]])
