"""FLAC files, as RFC 9639 describes them."""

from __future__ import annotations

import re
from typing import BinaryIO

from tangoflux.data.containers.rebuilt import RebuiltFile, file_size, read_at

MAGIC = b"fLaC"
HEAD = 42
"""Bytes up to the end of STREAMINFO, which comes first."""

MAX_FRAME = 2**22
"""No frame is longer: 65,535 samples of 8 channels and 32 bits."""

MAX_FRAME_HEAD = 16
BLOCK_SIZES = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


def rebuilt_flac(file: BinaryIO) -> RebuiltFile | None:
    """The file with the number of its samples in the header if it had none; None if it has one.

    An encoder that writes into a pipe cannot fill in the number.

    Raises:
        EOFError: there are no samples.
    """
    head = read_at(file, 0, HEAD)
    packed = int.from_bytes(head[18:26])
    if len(head) < HEAD or packed % 2**36:
        return None
    total = _end_of_last_frame(read_at(file, max(HEAD, file_size(file) - MAX_FRAME), MAX_FRAME), head)
    if not 0 < total < 2**36:
        raise EOFError
    return RebuiltFile(head[:18] + (packed + total).to_bytes(8) + head[26:], file, HEAD)


def _end_of_last_frame(tail: bytes, head: bytes) -> int:
    """The number of the sample after the last frame that begins in ``tail``; 0 if none does."""
    channels = (head[20] >> 1 & 7) + 1
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        end = _end_of_frame(tail[match.start() : match.start() + MAX_FRAME_HEAD], int.from_bytes(head[8:10]), channels)
        if end:
            return end
    return 0


def _end_of_frame(frame: bytes, fixed_size: int, channels: int) -> int:
    """The number of the sample after a frame (section 9.1); 0 if the bytes are not its beginning."""
    if (
        len(frame) < MAX_FRAME_HEAD
        or frame[3] & 1
        or (frame[3] >> 4) not in (channels - 1, *((8, 9, 10) * (channels == 2)))
    ):
        return 0
    number, position = _coded_number(frame)
    size_code, rate_code = frame[2] >> 4, frame[2] & 15
    extra = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(frame[position : position + extra]) + 1 if extra else BLOCK_SIZES.get(size_code, 0)
    position += extra + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if number < 0 or rate_code == 15 or _crc8(frame[: position + 1]):
        return 0
    return (number if frame[1] & 1 else number * fixed_size) + size


def _coded_number(frame: bytes) -> tuple[int, int]:
    """The number of a frame or sample, coded like UTF-8, or -1, and the position after it."""
    lead = frame[4]
    more = 8 - (lead ^ 0xFF).bit_length()
    if more in (1, 8):
        return -1, 0
    number = lead & (0x7F >> more)
    for byte in frame[5 : 4 + max(1, more)]:
        number = number << 6 | byte & 0x3F
    return number, 4 + max(1, more)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x107 if crc & 0x80 else 0)) & 0xFF
    return crc
