"""Files of one JSON object a line that a reader may open while they grow and a crash cannot spoil."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.storage.atomic import explain_disk_errors
from tangoflux.errors import DataError


class JsonLines:
    """Appends objects to a file, each flushed whole; what a crash left of a last line is cut off before the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_tail(path)

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Add ``row`` and give back what a reader will get.

        Numbers of NumPy and torch become plain ones, and those that are not finite become null.

        Raises:
            ResourceError: the disk is full or the file cannot be written.
        """
        plain = _plain(row)
        line = json.dumps(plain, allow_nan=False)
        with explain_disk_errors(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
        return plain

    def read(self) -> list[dict[str, Any]]:
        """The rows so far, as ``read_json_lines`` gives them."""
        return read_json_lines(self.path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of ``path``, none if there is no such file; a torn last line (without its line feed) is ignored.

    Raises:
        DataError: a whole line is no JSON object.
    """
    if not path.exists():
        return []
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
