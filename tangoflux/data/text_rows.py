"""Text files that users write: read strictly, with errors that name ``file:line``."""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import json
import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from tangoflux.errors import DataError

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused: a bank of ten million captions is smaller."""

MAX_LINE_BYTES = 2**20
"""Longer lines, and so most binary files, are refused; files are read line by line."""

LINE_ENDS = "save the file with the line ends of Unix or Windows (LF or CRLF)"

MAX_PROBLEMS = 20
"""Most bad lines that an error names."""


def text_lines(file: Path, what: str) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a UTF-8 file, stripped, with their numbers from 1.

    Args:
        what: the kind of file, for errors, such as "prompt file".

    Raises:
        DataError: the file cannot be read, is too large or not text.
    """
    with _opened(file, what) as handle:
        for number, text in _decoded_lines(handle, file):
            line = text.strip()
            if "\r" in line:
                raise DataError(f"{file}:{number}: a carriage return in the line; {LINE_ENDS}")
            if line:
                yield number, line


def read_text(file: Path, what: str) -> str:
    """A UTF-8 file's text, without a byte order mark.

    Raises:
        DataError: it cannot be read, is too large or not text.
    """
    with _opened(file, what) as handle:
        return _decoded(handle.read(), file, 1)


def csv_rows(file: Path, what: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table whose first line names the columns, with the numbers of the lines where they begin.

    Raises:
        DataError: see ``text_lines``; or a row is not CSV, or the number of its cells differs from that of the columns.
    """
    columns: list[str] | None = None
    for number, cells in _csv_cells(file, what):
        if columns is None:
            columns = _checked_columns(cells, f"{file}:{number}")
        elif len(cells) != len(columns):
            raise DataError(
                f"{file}:{number}: the number of cells is not that of the columns in the first line: {len(cells)} "
                f"instead of {len(columns)}; enclose a text with commas in quotes"
            )
        else:
            yield number, dict(zip(columns, cells, strict=True))


def _csv_cells(file: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that is not blank, the first included."""
    with _opened(file, what) as handle:
        reader = csv.reader((text for _, text in _decoded_lines(handle, file)), strict=True)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{file}:{number}: the row is not CSV: {_csv_problem(str(error))}") from None
            if cells:
                yield number, cells


def _csv_problem(error: str) -> str:
    if "field limit" in error:
        return f"a cell is longer than {csv.field_size_limit():,} characters; is a quote not closed?"
    if "unexpected end" in error:
        return 'a quote is not closed; close it, or write "" for a quote in a quoted text'
    if "new-line" in error:
        return f"a carriage return in a cell; {LINE_ENDS}"
    return f'{error}; write "" for a quote in a quoted text'


def _checked_columns(cells: Sequence[str], origin: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    for column in columns:
        if column and columns.count(column) > 1:
            raise DataError(f"{origin}: two columns are named {column!r}; give each its own name")
    if len(columns) == 1 and any(separator in columns[0] for separator in ";\t|"):
        raise DataError(
            f"{origin}: the columns {shown(columns[0])} are not separated by commas; save the table with commas"
        )
    return columns


@contextmanager
def _opened(file: Path, what: str) -> Generator[BinaryIO]:
    """The open file, after its byte order mark if it has one."""
    try:
        if not file.is_file():
            raise DataError(f"{file}: no such {what}" if not file.exists() else f"{file} is not a regular file")
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{file} has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}; split it")
        with file.open("rb") as handle:
            start = handle.read(len(codecs.BOM_UTF8))
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{file}:1: not UTF-8 text (it is UTF-16); save the file as UTF-8")
            if start != codecs.BOM_UTF8:
                handle.seek(0)
            yield handle
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _decoded_lines(handle: BinaryIO, file: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers and line ends."""
    # Not text mode: it would also cut at carriage returns, which editors may not count as lines.
    for number, raw in enumerate(_bounded_lines(handle, file), start=1):
        yield number, _decoded(raw, file, number)


def _decoded(raw: bytes, file: Path, first: int) -> str:
    """The text of lines, the first of which has the number ``first``."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + raw.count(b"\n", 0, error.start)
        raise DataError(f"{file}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    if "\0" in text:
        line = first + text.count("\n", 0, text.index("\0"))
        raise DataError(f"{file}:{line}: not text (it holds a NUL byte); give a text file in UTF-8")
    return text


def _bounded_lines(handle: BinaryIO, file: Path) -> Iterator[bytes]:
    for number in itertools.count(1):
        line = handle.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{file}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; is the file text?")
        yield line


def parse_row(line: str, origin: str, keys: Sequence[str], example: str) -> dict[str, Any]:
    """The JSON object in a line; keys other than ``keys`` are ignored.

    Args:
        origin: ``file:line``, with which errors begin.

    Raises:
        DataError: the line is not a JSON object, or misspells one of ``keys``.
    """
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin}: not JSON ({error}); write one object a line, like {example}") from None
    if not isinstance(row, dict):
        raise DataError(f"{origin}: {type(row).__name__} instead of an object like {example}")
    row = cast(dict[str, Any], row)
    _refuse_misspelt_keys(row, origin, keys)
    return row


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row that are given: null counts as absent, and so does NaN, which tables write for it."""
    return {key: value for key, value in row.items() if not is_null(value)}


def is_null(value: object) -> bool:
    """Whether a value of a row is null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def id_text(value: object) -> object:
    """An id as text if it is a whole number. 12.0 is 12: pandas writes it in columns of integers that have nulls."""
    if isinstance(value, str):
        return value[:-2] if re.fullmatch(r"-?\d+\.0", value) else value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value % 1 == 0:
        return str(int(value))
    return value


def raise_problems(problems: Sequence[str]) -> None:
    """Raises a DataError that lists the problems, the first ``MAX_PROBLEMS`` of them in full, if there are any."""
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise DataError("; ".join(problems[:MAX_PROBLEMS]) + more)


def has_surrogate(text: str) -> bool:
    """Whether a text has half of a surrogate pair, which JSON can carry but UTF-8 cannot."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def shown(value: object) -> str:
    """A value for an error message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_misspelt_keys(row: dict[str, Any], origin: str, keys: Sequence[str]) -> None:
    """Refuses a misspelt key, which would be silently ignored."""
    for key in keys:
        near = difflib.get_close_matches(key, list(row), n=1, cutoff=0.8)
        if key not in row and near:
            raise DataError(f"{origin}: unknown key {near[0]!r}; did you mean {key!r}?")
