"""MP3 files (MPEG 1, 2 and 2.5, layer III).

The header that says how long a file is (Xing, Info or VBRI, in a first frame without audio) is optional, and tools
that cut and join files leave wrong ones. libsndfile then guesses from the first frame's bit rate.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from tangoflux.data.containers.rebuilt import RebuiltFile, file_size, read_at

KBIT = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of MPEG 1, and of 2 and 2.5."""

HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
"""The first two bytes of a frame of layer III."""

MAX_JUNK = 2**16
"""How far the next frame is looked for."""

MAX_TAG = 64
"""Bytes of a first frame that are needed to know how long the file is."""

PROBED = 3
"""Frames in a row that show that bytes are MP3."""


@dataclass(frozen=True)
class Frame:
    """What a frame's four header bytes say; ``side`` bytes of other data come before the audio."""

    length: int
    kind: tuple[int, int]
    side: int


def rebuilt_mpeg(file: BinaryIO) -> RebuiltFile | None:
    """The file with a header that says how long it is, if it is an MP3 file without one or with a wrong one.

    Returns:
        None if it is right as it is, or no MP3 file.

    Raises:
        EOFError: the last frame is incomplete, or the header says that more frames follow than there are.
        OSError: frames of another kind follow, which libsndfile would leave out.
    """
    first = _next_frame(file, 0, PROBED)
    if first is None:
        return None
    head = read_at(file, first, MAX_TAG).ljust(MAX_TAG, b"\0")
    promised, promised_bytes, audio = _promise(head, first)
    frames, end, is_cut = _count(file, audio, file_size(file))
    has_bytes = promised_bytes is not None and first + promised_bytes <= file_size(file)
    # Some encoders count the first frame, too.
    is_short = promised is not None and frames + 1 < promised and not has_bytes
    if is_short or (is_cut and frames != promised):
        raise EOFError
    if frames != promised:
        return RebuiltFile(_info_frame(head[:4], frames), file, audio, end)
    # libsndfile finds neither a beginning nor an end behind much junk.
    return RebuiltFile(b"", file, first, end) if first > 0 or end < file_size(file) else None


def _frame(header: bytes) -> Frame | None:
    """The frame that begins with these four bytes; None if none does, or its length is not in its header."""
    if not SYNC.match(header) or len(header) < 4:
        return None
    version, rate, channels = header[1] >> 3 & 3, header[2] >> 2 & 3, header[3] >> 6
    kbit = header[2] >> 4
    if rate == 3 or kbit in (0, 15):
        return None
    slots = 144 if version == 3 else 72
    length = slots * 1000 * KBIT[3 if version == 3 else 2][kbit] // HZ[version][rate] + (header[2] >> 1 & 1)
    side = {True: (32, 17), False: (17, 9)}[version == 3][channels == 3]
    return Frame(length, (version, rate), side)


def _next_frame(file: BinaryIO, position: int, in_a_row: int) -> int | None:
    """Where the next frame begins, at ``position`` or behind some junk."""
    for match in SYNC.finditer(read_at(file, position, MAX_JUNK)):
        if _is_chain(file, position + match.start(), in_a_row):
            return position + match.start()
    return None


def _is_chain(file: BinaryIO, position: int, in_a_row: int) -> bool:
    """Whether so many frames of one kind follow each other, or all up to the file's end; the last may be cut off."""
    kind = None
    for found in range(in_a_row):
        header = read_at(file, position, 4)
        frame = _frame(header)
        if frame is None or kind not in (None, frame.kind):
            left = file_size(file) - position
            return found > 0 and (left == 0 or (left < 0 and found > 1) or header[:3] == b"TAG")
        kind, position = frame.kind, position + frame.length
    return True


def _promise(head: bytes, first: int) -> tuple[int | None, int | None, int]:
    """The frames and bytes that the first frame says will follow, and where the first frame with audio begins."""
    frame = _frame(head)
    assert frame
    # A checksum of two bytes may come before the tag.
    if tag := re.compile(rb"(?:..)?(?:Xing|Info)", re.DOTALL).match(head, 4 + frame.side):
        flags, *counts = struct.unpack(">3I", head[tag.end() : tag.end() + 12])
        frames = counts.pop(0) if flags & 1 else None
        return frames, counts[0] if flags & 2 else None, first + frame.length
    if head[36:40] == b"VBRI":
        size, frames = struct.unpack(">2I", head[46:54])
        return frames, size, first + frame.length
    return None, None, first


def _count(file: BinaryIO, position: int, size: int) -> tuple[int, int, bool]:
    """The number of whole frames from a position on, where they end, and whether an incomplete one follows."""
    frames, end, kind = 0, position, None
    while position < size:
        header = read_at(file, position, 4)
        frame = _frame(header)
        if frame and kind in (None, frame.kind):
            if position + frame.length > size:
                return frames, end, True
            frames, kind, position = frames + 1, frame.kind, position + frame.length
            end = position
        elif frame and _is_chain(file, position, PROBED):
            raise OSError("its sample rate changes within the file; convert it to one rate")
        elif (behind := _next_frame(file, position + 1, 2)) is not None:
            position = behind
        else:
            return frames, end, len(header) < 4 and header[:1] == b"\xff"
    return frames, end, False


def _info_frame(header: bytes, frames: int) -> bytes:
    """A frame without audio that says how many follow; 128 or 64 kbit/s, so that there is room for that."""
    version = header[1] >> 3 & 3
    header = bytes((0xFF, header[1] | 1, (0x90 if version == 3 else 0x80) | header[2] & 0x0C, header[3]))
    frame = _frame(header)
    assert frame
    return (header + bytes(frame.side) + struct.pack(">4s2I", b"Info", 1, frames)).ljust(frame.length, b"\0")
