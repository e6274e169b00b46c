"""Files of one JSON object a line, which can be read while they grow and survive a crash."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.storage.atomic import explain_disk_errors
from tangoflux.errors import DataError


class JsonLines:
    """Appends objects to a file. An incomplete last line, which a crash leaves behind, is cut off first.

    Args:
        path: its directory is created.
        sync: wait with each object until it is on disk, so that it survives a power failure too.

    Raises:
        ResourceError: the disk is full or the file cannot be written.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        self.path, self._sync = path, sync
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_tail(path)

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Appends ``row`` and returns it as readers will get it.

        Numbers of NumPy and torch become plain ones, and numbers that are not finite become null.

        Raises:
            ResourceError: the disk is full or the file cannot be written.
        """
        plain = _plain(row)
        line = json.dumps(plain, allow_nan=False)
        with explain_disk_errors(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
            if self._sync:
                file.flush()
                os.fsync(file.fileno())
        return plain

    def read(self) -> list[dict[str, Any]]:
        """All rows so far; see ``read_json_lines``."""
        return read_json_lines(self.path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of ``path``, none if the file does not exist. An incomplete last line (without line feed) is ignored.

    Raises:
        DataError: a complete line is not a JSON object, or there is a directory.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise DataError(f"{path} is in the way: remove it or choose another directory")
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON ({error}); delete that line") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} is not a JSON object; delete that line")
    return row


def _cut_torn_tail(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
