"""ID3v2 tags, which taggers write in front of files of every kind."""

from __future__ import annotations

from typing import BinaryIO

from tangoflux.data.containers.rebuilt import file_size, read_at


def end_of_tags(file: BinaryIO) -> int:
    """The position after the tags at a file's beginning; 0 if there are none."""
    position = 0
    while (tag := read_at(file, position, 10))[:3] == b"ID3" and len(tag) == 10:
        # The size is coded in 7 bits a byte, and counts neither the head nor the footer.
        size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if tag[5] & 0x10 else 0)
    return min(position, file_size(file))
