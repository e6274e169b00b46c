"""A file whose beginning is replaced in memory."""

from __future__ import annotations

import io
import os
from typing import BinaryIO


class RebuiltFile(io.RawIOBase):
    """``head``, and then the bytes of another file from ``start`` to ``end``; it can be read and seeked."""

    def __init__(self, head: bytes, file: BinaryIO, start: int, end: int | None = None) -> None:
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + (file_size(file) if end is None else end) - start
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves as any file does, and never out of the file: libsndfile expects no exceptions."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = min(max(0, start + offset), self._size)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Fills the buffer as far as there are bytes, and returns their number."""
        count = min(len(buffer), self._size - self._position)
        data = self._head[self._position : self._position + count]
        behind = self._position + len(data) - len(self._head)
        data += read_at(self._file, self._start + behind, count - len(data)) if behind >= 0 else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def file_size(file: BinaryIO) -> int:
    """The number of bytes of a file."""
    return file.seek(0, os.SEEK_END)


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """At most ``count`` bytes from a position on; fewer at the end of the file."""
    file.seek(position)
    return file.read(count)
