"""Text files that users write: read strictly, with errors that name ``file:line``."""

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
"""Larger files are refused: a bank of ten million captions is smaller."""

MAX_LINE_BYTES = 2**20
"""Longer lines, and so most binary files, are refused; files are read line by line."""

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
        DataError: see ``text_lines``; or the number of a row's cells differs from that of the columns.
    """
    try:
        with _opened(file, what) as handle:
            reader = csv.DictReader((line.decode("utf-8") for line in _bounded_lines(handle, file)), strict=True)
            for values in reader:
                if None in values or None in values.values():
                    raise DataError(
                        f"{file}:{reader.line_num}: the number of cells is not that of the columns in the first line"
                    )
                yield reader.line_num, values
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV table: {error}") from None


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
