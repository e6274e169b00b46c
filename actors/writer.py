"""Parquet shards with a manifest: each is whole or absent, and a resume writes exactly what is missing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.files import clear_disk_errors, whole_file
from tangoflux.errors import DataError
from tangoflux.records import is_latents

MANIFEST = ".manifest.jsonl"
"""One JSON object a shard. Hidden, because readers of a Parquet directory take every visible file for a shard."""


@dataclass(frozen=True)
class Shard:
    """A manifest line."""

    part: int
    file: str
    rows: int
    bytes: int
    sha256: str


class ShardWriter:
    """The shards of one directory, for one writer and any number of readers.

    Only a shard that the manifest names and whose file is there with the right size counts as written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, part: int, table: pa.Table) -> Path:
        """Writes shard number ``part``, unless it is there already, and returns its path.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        path = self.directory / f"part-{part:05d}.parquet"
        if part in self.shards():
            return path
        with clear_disk_errors(path):
            self.directory.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            # Latents are incompressible noise to a codec: compressing or indexing them only costs time.
            plain = [field.name for field in table.schema if not is_latents(field.type)]
            options: dict[str, Any] = {"use_dictionary": plain, "write_statistics": plain}
            pq.write_table(table, temporary, compression="none", **options)
        self._enter(Shard(part, path.name, len(table), path.stat().st_size, _sha256(path)))
        return path

    def drop_columns(self, part: int, names: Sequence[str]) -> None:
        """Writes a shard anew without some columns; one that has none of them stays as it is.

        Raises:
            DataError, ResourceError: see ``read_part`` and ``write``.
        """
        shard, table = self.shards()[part], self.read_part(part)
        slim = table.drop_columns([name for name in names if name in table.column_names])
        if slim.num_columns == table.num_columns:
            return
        # Under another name, so that the manifest names a whole file at every moment.
        path = self.directory / f"part-{part:05d}-slim.parquet"
        with whole_file(path) as temporary:
            pq.write_table(slim, temporary, compression="none")
        self._enter(Shard(part, path.name, len(slim), path.stat().st_size, _sha256(path)))
        (self.directory / shard.file).unlink()

    def shards(self) -> dict[int, Shard]:
        """The whole shards by number, in their order."""
        entries = {shard.part: shard for shard in self._manifest()}
        return {part: entries[part] for part in sorted(entries) if self._is_whole(entries[part])}

    def parts(self) -> set[int]:
        """Numbers of the whole shards."""
        return set(self.shards())

    def files(self) -> list[Path]:
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
        shard = self.shards().get(part)
        if shard is None:
            raise DataError(f"{self.directory} has no whole shard {part}; run the stage that writes it again")
        return self._read(shard, columns, verify)

    def read(self, columns: Sequence[str] | None = None, verify: bool = False) -> pa.Table:
        """All whole shards in order, as one table.

        Raises:
            DataError: there is none, or a hash does not match.
        """
        shards = self.shards().values()
        if not shards:
            raise DataError(f"{self.directory} holds no whole shard; run the stage that writes it first")
        return pa.concat_tables([self._read(shard, columns, verify) for shard in shards])

    def _read(self, shard: Shard, columns: Sequence[str] | None, verify: bool) -> pa.Table:
        path = self.directory / shard.file
        if verify and _sha256(path) != shard.sha256:
            raise DataError(f"{path} was changed after it was written (SHA-256 differs from {MANIFEST}); delete it")
        # Not pq.read_table, which makes columns of directory names such as "beta=2000".
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))

    def _manifest(self) -> list[Shard]:
        path = self.directory / MANIFEST
        if not path.exists():
            return []
        # What follows the last line feed is a line that a crash tore.
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            return [Shard(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); delete the directory to make its shards again") from error

    def _is_whole(self, shard: Shard) -> bool:
        path = self.directory / shard.file
        return path.is_file() and path.stat().st_size == shard.bytes

    def _enter(self, shard: Shard) -> None:
        path = self.directory / MANIFEST
        with clear_disk_errors(path), path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(asdict(shard)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
