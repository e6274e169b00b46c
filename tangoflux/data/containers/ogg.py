"""Ogg files: Vorbis, Opus, FLAC in Ogg."""

from __future__ import annotations

from typing import BinaryIO

from tangoflux.data.containers.rebuilt import file_size, read_at

MAGIC = b"OggS"
MAX_PAGE = 27 + 255 + 255 * 255


def check_ogg(file: BinaryIO) -> None:
    """Checks what libsndfile does not: it reads the first of several streams, and accepts any page as the last.

    Raises:
        EOFError: the last page (RFC 3533, section 6) is not marked as such, or incomplete: the file was cut off.
        OSError: streams follow each other.
    """
    tail = read_at(file, max(0, file_size(file) - MAX_PAGE), MAX_PAGE)
    last = tail[max(0, tail.rfind(MAGIC)) :]
    if len(last) < 28 or not last[5] & 4 or _page_size(last) != len(last):
        raise EOFError
    if _is_chained(file):
        raise OSError("streams follow each other in this Ogg file; convert it to one stream")


def _is_chained(file: BinaryIO) -> bool:
    """Whether a stream begins after another one's data."""
    position, has_data = 0, False
    while len(page := read_at(file, position, 27 + 255)) > 27 and page[:4] == MAGIC:
        is_first = bool(page[5] & 2)
        if is_first and has_data:
            return True
        has_data = not is_first
        position += _page_size(page)
    return False


def _page_size(page: bytes) -> int:
    return 27 + page[26] + sum(page[27 : 27 + page[26]])
