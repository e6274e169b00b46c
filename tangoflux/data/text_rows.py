"""Files of lines that people write: read strictly, with errors that name ``file:line``."""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tangoflux.errors import DataError

MAX_FILE_BYTES = 4 * 2**30
"""A larger file is refused: a bank of ten million captions is smaller."""

MAX_LINE_BYTES = 2**20
"""A longer line is refused, and with it what is no text at all; a file is read a line at a time."""


def text_lines(file: Path, what: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, stripped, with their numbers from 1.

    Args:
        what: what errors call the file, such as "prompt file".

    Raises:
        DataError: the file cannot be read, is too large or not text.
    """
    with _opened(file, what) as handle:
        # Not text mode: it would also cut at carriage returns, which editors may not count as lines.
        for number, raw in enumerate(_bounded_lines(handle, file), start=1):
            try:
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{file}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
            if "\0" in line:
                raise DataError(f"{file}:{number}: not text (it holds a NUL byte); give a .txt or .jsonl file in UTF-8")
            if line:
                yield number, line


def read_bytes(file: Path, what: str) -> bytes:
    """A file's bytes, without a byte order mark.

    Raises:
        DataError: it cannot be read or is too large.
    """
    with _opened(file, what) as handle:
        return handle.read()


def csv_rows(file: Path, what: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table whose first line names the columns, with the numbers of their lines.

    Raises:
        DataError: see ``text_lines``; or a row has more or fewer cells than there are columns.
    """
    try:
        with _opened(file, what) as handle:
            reader = csv.DictReader((line.decode("utf-8") for line in _bounded_lines(handle, file)), strict=True)
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


@contextmanager
def _opened(file: Path, what: str) -> Generator[BinaryIO]:
    """The file, after its byte order mark if it has one."""
    try:
        if not file.is_file():
            raise DataError(f"{file}: no such {what}" if not file.exists() else f"{file} is not a regular file")
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{file} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}; split it")
        with file.open("rb") as handle:
            if handle.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                handle.seek(0)
            yield handle
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _bounded_lines(handle: BinaryIO, file: Path) -> Iterator[bytes]:
    for number in itertools.count(1):
        line = handle.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{file}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; is the file text?")
        yield line


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
