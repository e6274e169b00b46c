"""Manifests in Parquet, and audio that is embedded in them as in Hugging Face's data sets."""

# pyarrow has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from tangoflux.errors import DataError

BUFFER_BYTES = 2**20
"""Reads through a buffer keep a row group's pages, which may be the whole file, out of memory."""

PLAIN = (
    kinds.is_string,
    kinds.is_large_string,
    kinds.is_integer,
    kinds.is_floating,
    kinds.is_decimal,
    kinds.is_boolean,
    kinds.is_null,
)


def parquet_rows(
    file: Path, names: Sequence[str], embedded_names: Sequence[str]
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The rows of a table, and whether its column ``audio`` holds the audio itself, which is not read.

    Args:
        names: the columns that are read.
        embedded_names: those that are read if the audio is embedded; its path, or None, stands for it.

    Yields:
        rows of the columns that there are; the first one also has None for each that is not read.

    Raises:
        DataError: the file cannot be read, or a column has a type that a manifest has no use for.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such manifest")
    try:
        with pq.ParquetFile(file) as table:
            types = dict(zip(table.schema_arrow.names, table.schema_arrow.types, strict=True))
            is_embedded = "audio" in types and _bytes_column(types["audio"]) is not None
            left_out = set(names) - set(embedded_names) if is_embedded else set[str]()
            row: dict[str, Any] = {name: None for name in types if name not in left_out}
            wanted = [name for name in row if name in names]
            columns = [column for name in wanted for column in _columns(file, name, types[name])]
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=columns)
                rows.validate(full=True)  # texts may not be UTF-8
                for values in rows.to_pylist():
                    row |= {name: _path(values.get(name)) for name in wanted}
                    yield row, is_embedded
                    row = {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None


def embedded_audio(file: str, row: int) -> bytes | None:
    """The audio of a row, counted from 0; None if it has none.

    A process that asks for rows in their order reads the file once.

    Raises:
        OSError: it cannot be read.
    """
    try:
        status = Path(file).stat()
        return _reader(file, status.st_mtime_ns, status.st_size).read(row)
    except pa.ArrowException as error:
        raise OSError(f"not readable as Parquet: {error}") from None


class EmbeddedAudio:
    """The audio of a file, row by row: in memory are some rows of a row group, but not all."""

    def __init__(self, file: str) -> None:
        self._table = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        schema = self._table.schema_arrow
        self._column = _bytes_column(schema.types[schema.names.index("audio")])
        self._group, self._first, self._next = -1, 0, 0
        self._rows: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes | None:
        """The audio of a row; fast if it comes after the row that was read last."""
        if not self._next <= row < self._first + self._size:
            self._open_group_of(row)
        while True:
            value = next(self._rows).column(0)[0]
            self._next += 1
            if self._next > row:
                return (value["bytes"] if isinstance(value, pa.StructScalar) and value.is_valid else value).as_py()

    @property
    def _size(self) -> int:
        return self._table.metadata.row_group(self._group).num_rows if self._group >= 0 else 0

    def _open_group_of(self, row: int) -> None:
        self._group, self._first = 0, 0
        while row >= self._first + self._size:
            self._first, self._group = self._first + self._size, self._group + 1
        self._next = self._first
        self._rows = self._table.iter_batches(1, [self._group], [self._column], use_threads=False)


@lru_cache(maxsize=1)
def _reader(file: str, mtime_ns: int, size: int) -> EmbeddedAudio:
    return EmbeddedAudio(file)


def _columns(file: Path, name: str, type: Any) -> list[str]:
    """The columns to read for a manifest's column: of embedded audio, only the path.

    Raises:
        DataError: a manifest has no use for the type.
    """
    if name == "audio" and _bytes_column(type):
        return ["audio.path"] if kinds.is_struct(type) and type.get_field_index("path") >= 0 else []
    plain = type
    while kinds.is_dictionary(plain) or _is_list(plain):
        plain = plain.value_type
    if any(is_kind(plain) for is_kind in PLAIN):
        return [name]
    expected = "paths, or files in bytes" if name == "audio" else "texts or numbers"
    raise DataError(f"{file}: the column {name} has the type {str(type)[:200]}; a manifest has {expected} there")


def _is_list(type: Any) -> bool:
    return kinds.is_list(type) or kinds.is_large_list(type) or kinds.is_fixed_size_list(type)


def _bytes_column(type: Any) -> str | None:
    """Where the bytes are in an ``audio`` column of this type; None if it has none."""
    if kinds.is_struct(type) and (index := type.get_field_index("bytes")) >= 0:
        return "audio.bytes" if _is_binary(type.field(index).type) else None
    return "audio" if _is_binary(type) else None


def _is_binary(type: Any) -> bool:
    return kinds.is_binary(type) or kinds.is_large_binary(type)


def _path(value: object) -> object:
    return value.get("path") if isinstance(value, dict) else value
