"""Parquet shards with a manifest: each is whole or absent, and a resume writes exactly what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import TypeVar

from actors.storage.object_store import Location, ObjectStorePath
from actors.storage.shard_files import Shard, shard_files, whole_shards
from tangoflux.data.records import is_latents
from tangoflux.errors import DataError

FULL, SLIM = "part-{:05d}.parquet", "part-{:05d}-slim.parquet"
"""The file of a shard, as it was written and when it has lost columns."""

Directory = TypeVar("Directory", Path, ObjectStorePath, default=Path)


class ShardWriter(Generic[Directory]):
    """The shards of one directory, for one writer and any number of readers.

    Only a shard that the manifest names and whose file is there with the right size counts as written.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._files = shard_files(directory)

    def write(self, part: int, table: pa.Table) -> Directory:
        """Writes shard number ``part``, unless it is there already, and returns where it is.

        Raises:
            ResourceError: the disk is full, or the directory or store cannot be written.
        """
        file = FULL.format(part)
        if self._files.find(part):
            return self.directory / file
        # Latents are incompressible noise to a codec: compressing or indexing them only costs time.
        plain = [field.name for field in table.schema if not is_latents(field.type)]
        self._save(part, file, table, {"use_dictionary": plain, "write_statistics": plain})
        return self.directory / file

    def drop_columns(self, names: Sequence[str]) -> None:
        """Writes all shards anew without some columns; those that have lost columns stay as they are.

        Raises:
            DataError, ResourceError: see ``read_part`` and ``write``.
        """
        files = self._files.sizes()
        for shard in self.shards().values():
            full, slim = FULL.format(shard.part), SLIM.format(shard.part)
            if shard.file == full:
                # Under another name, so that the manifest names a whole file at every moment.
                table = self.read_shard(shard)
                kept = [name for name in table.column_names if name not in names]
                self._save(shard.part, slim, table.select(kept), {})
            if full in files:  # also where a kill came before this line
                self._files.delete(full)

    def shards(self) -> dict[int, Shard]:
        """The whole shards by number, in their order."""
        return whole_shards(self._files)

    def parts(self) -> set[int]:
        """Numbers of the whole shards."""
        return set(self.shards())

    def files(self) -> list[Directory]:
        """Paths of the whole shards in order, for readers of Parquet files."""
        return [self.directory / shard.file for shard in self.shards().values()]

    def read_part(self, part: int, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """One shard.

        Args:
            columns: only these, default all.
            verify: compare the file's hash with the manifest first.

        Raises:
            DataError: there is no such whole shard, or its hash does not match.
        """
        shard = self._files.find(part)
        if shard is None:
            raise DataError(f"{self.directory} has no whole shard {part}; run the stage that writes it again")
        return self.read_shard(shard, columns, verify)

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """A shard that ``shards`` named; see ``read_part``."""
        content = self._files.load(shard.file)
        if verify and hashlib.sha256(content).hexdigest() != shard.sha256:
            raise DataError(
                f"{self.directory / shard.file} was changed after it was written (its SHA-256 differs from the "
                "manifest's); delete it"
            )
        # Not pq.read_table, which makes columns of directory names such as "beta=2000".
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            return file.read(columns=None if columns is None else list(columns))

    def tables(self, columns: Sequence[str] | None = None, verify: bool = False) -> Iterator[tuple[int, pa.Table]]:
        """All whole shards in order, with their numbers, one after another.

        Raises:
            DataError: a hash does not match.
        """
        for part, shard in self.shards().items():
            yield part, self.read_shard(shard, columns, verify)

    def read(self, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """All whole shards in order, as one table.

        Raises:
            DataError: there is none, or a hash does not match.
        """
        tables = [table for _, table in self.tables(columns, verify)]
        if not tables:
            raise DataError(f"{self.directory} holds no whole shard; run the stage that writes it first")
        return pa.concat_tables(tables)

    def _save(self, part: int, file: str, table: pa.Table, options: dict[str, Any]) -> None:
        content = self._files.save(file, table, {"compression": "none", **options})
        self._files.enter(Shard(part, file, len(table), content.size, hashlib.sha256(content).hexdigest()))


Shards = ShardWriter[Path] | ShardWriter[ObjectStorePath]


def shards_at(directory: Location) -> Shards:
    """The shards of a directory or place."""
    shards: Any = ShardWriter[Any](directory)  # a union is no value of the type variable
    return shards
