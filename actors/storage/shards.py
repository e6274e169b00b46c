"""Parquet shards with a manifest: each is complete or absent, and a resume writes exactly those that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage.manifest import Shard, manifest_of
from actors.storage.object_store import Directory, Location, ObjectStorePath
from actors.storage.paths import remove, size_of, sizes, write
from tangoflux.data.records import is_latents
from tangoflux.errors import DataError

FULL, SLIM = "part-{:05d}.parquet", "part-{:05d}-slim.parquet"
"""A shard's file as first written, and without the columns that were dropped later."""


class ShardWriter(Generic[Directory]):
    """The shards of one directory, for one writer and any number of readers.

    A shard counts only if the manifest names it and its file has the size that the manifest says.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._manifest = manifest_of(directory)

    def write(self, part: int, table: pa.Table) -> Directory:
        """Writes shard number ``part`` unless it exists, and returns its path.

        Raises:
            ResourceError: the disk is full, or the directory or store cannot be written.
        """
        file = FULL.format(part)
        if not self._find(part):
            # Latents are incompressible noise to a codec: compressing or indexing them only costs time.
            plain = [field.name for field in table.schema if not is_latents(field.type)]
            self._save(part, file, table, {"use_dictionary": plain, "write_statistics": plain})
        return self.directory / file

    def drop_columns(self, names: Sequence[str]) -> None:
        """Rewrites all shards without some columns; those that have lost columns already stay as they are.

        Raises:
            DataError, ResourceError: see ``read_part`` and ``write``.
        """
        files = sizes(self.directory)
        for shard in self.shards().values():
            full, slim = FULL.format(shard.part), SLIM.format(shard.part)
            if shard.file == full:
                # Under another name, so that the manifest names a complete file at every moment.
                table = self.read_shard(shard)
                kept = [name for name in table.column_names if name not in names]
                self._save(shard.part, slim, table.select(kept), {})
            if full in files:  # also after an earlier attempt was killed before this line
                remove(self.directory / full)

    def shards(self) -> dict[int, Shard]:
        """The complete shards by number, in ascending order."""
        entries = self._manifest.entries()
        files = sizes(self.directory) if entries else {}
        return {part: shard for part, shard in entries.items() if files.get(shard.file) == shard.bytes}

    def parts(self) -> set[int]:
        """Numbers of the complete shards."""
        return set(self.shards())

    def files(self) -> list[Directory]:
        """Paths of the complete shards in order, for readers of Parquet files."""
        return [self.directory / shard.file for shard in self.shards().values()]

    def read_part(self, part: int, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """Reads one shard.

        Args:
            columns: only these, default all.
            verify: compare the file's hash with the manifest first.

        Raises:
            DataError: the shard is missing or incomplete, or its hash does not match.
        """
        shard = self._find(part)
        if shard is None:
            raise DataError(f"{self.directory} has no complete shard {part}; run the stage that writes it again")
        return self.read_shard(shard, columns, verify)

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """Reads a shard that ``shards`` returned; see ``read_part``."""
        content = _read(self.directory / shard.file)
        if verify and hashlib.sha256(content).hexdigest() != shard.sha256:
            raise DataError(
                f"{self.directory / shard.file} was changed after it was written (its SHA-256 differs from the "
                "manifest's); delete it"
            )
        # Not pq.read_table, which makes columns of directory names such as "beta=2000".
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            return file.read(columns=None if columns is None else list(columns))

    def tables(self, columns: Sequence[str] | None = None, verify: bool = False) -> Iterator[tuple[int, pa.Table]]:
        """Reads all complete shards in order, one after another, with their numbers.

        Raises:
            DataError: a hash does not match.
        """
        for part, shard in self.shards().items():
            yield part, self.read_shard(shard, columns, verify)

    def read(self, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """Reads all complete shards in order, as one table.

        Raises:
            DataError: there is none, or a hash does not match.
        """
        tables = [table for _, table in self.tables(columns, verify)]
        if not tables:
            raise DataError(f"{self.directory} holds no complete shard; run the stage that writes it first")
        return pa.concat_tables(tables)

    def _find(self, part: int) -> Shard | None:
        shard = self._manifest.find(part)
        return shard if shard and size_of(self.directory / shard.file) == shard.bytes else None

    def _save(self, part: int, file: str, table: pa.Table, options: dict[str, Any]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", **options)
        content = sink.getvalue()
        write(self.directory / file, content)
        self._manifest.enter(Shard(part, file, len(table), content.size, hashlib.sha256(content).hexdigest()))


Shards = ShardWriter[Path] | ShardWriter[ObjectStorePath]


def shards_at(directory: Location) -> Shards:
    """The shards of a directory on a disk or in an object store."""
    shards: Any = ShardWriter[Any](directory)  # a union cannot be the value of a type variable
    return shards


def _read(file: Location) -> pa.Buffer:
    if isinstance(file, ObjectStorePath):
        return pa.py_buffer(file.get())
    with pa.memory_map(str(file)) as content:
        return content.read_buffer()
