"""Files of lines that people write: read strictly, with errors that name ``file:line``."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from tangoflux.errors import DataError

MAX_FILE_BYTES = 64 * 2**20
"""A larger file is refused: it is read whole, and a bank of a million captions is smaller."""


def text_lines(file: Path, what: str, max_bytes: int = MAX_FILE_BYTES) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, stripped, with their numbers from 1.

    Args:
        what: what errors call the file, such as "prompt file".
        max_bytes: see ``read_bytes``.

    Raises:
        DataError: the file cannot be read, is too large or not text.
    """
    # Not splitlines(): it would also cut at characters such as U+2028, which editors do not count as lines.
    for number, raw in enumerate(read_bytes(file, what, max_bytes).split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{file}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
        if "\0" in line:
            raise DataError(f"{file}:{number}: not text (it holds a NUL byte); give a .txt or .jsonl file in UTF-8")
        if line:
            yield number, line


def read_bytes(file: Path, what: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """A file's bytes, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is larger than ``max_bytes``.
    """
    try:
        if not file.is_file():
            raise DataError(f"{file}: no such {what}" if not file.exists() else f"{file} is not a regular file")
        size = file.stat().st_size
        if size > max_bytes:
            raise DataError(f"{file} has {size:,} bytes, the limit is {max_bytes:,}; split it")
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def csv_rows(file: Path, what: str, max_bytes: int = MAX_FILE_BYTES) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table whose first line names the columns, with the numbers of their lines.

    Raises:
        DataError: see ``text_lines``; or a row has more or fewer cells than there are columns.
    """
    try:
        text = read_bytes(file, what, max_bytes).decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for values in reader:
            if None in values or None in values.values():
                raise DataError(
                    f"{file}:{reader.line_num}: the row has not as many cells as the first line names columns"
                )
            yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{file} is no CSV table: {error}") from None


def parse_row(line: str, place: str, keys: Sequence[str], example: str) -> dict[str, Any]:
    """The JSON object in a line. Keys beside ``keys`` are the user's own.

    Raises:
        DataError: it is none, or a key is almost, but not quite, one of ``keys``; begins with ``place``.
    """
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); write one object a line, like {example}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: {type(row).__name__} instead of an object like {example}")
    row = cast(dict[str, Any], row)
    _refuse_misspelt_keys(row, place, keys)
    return row


def shown(value: object) -> str:
    """A value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_misspelt_keys(row: dict[str, Any], place: str, keys: Sequence[str]) -> None:
    """A key that almost names a missing one would be ignored without a word."""
    for wanted in keys:
        near = difflib.get_close_matches(wanted, list(row), n=1, cutoff=0.8)
        if wanted not in row and near:
            raise DataError(f"{place}: unknown key {near[0]!r}; did you mean {wanted!r}?")
