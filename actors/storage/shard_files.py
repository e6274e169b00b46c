"""Where the shards of a directory are, and how one is entered: in a manifest on a disk, or as objects in a store."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from actors.storage.atomic import atomic_write, explain_disk_errors
from actors.storage.object_store import Location, ObjectStorePath
from tangoflux.errors import DataError

MANIFEST = ".manifest.jsonl"
"""One JSON object a shard. Hidden, because readers of a Parquet directory take every visible file for a shard."""

MANIFEST_OBJECTS = ".manifest"
"""In an object store, below this name one object a shard, put after it."""

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """An entry of a manifest."""

    part: int
    file: str
    rows: int
    bytes: int
    sha256: str


class ShardFiles(Protocol):
    """What ``ShardWriter`` asks of the place that holds its shards."""

    def save(self, file: str, table: pa.Table, options: Mapping[str, Any]) -> pa.Buffer:
        """Writes a Parquet file whole, and returns its content."""
        ...

    def load(self, file: str) -> pa.Buffer:
        """The content of a file."""
        ...

    def delete(self, file: str) -> None:
        """Removes a file."""
        ...

    def enter(self, shard: Shard) -> None:
        """Commits a shard: from now on it counts, and earlier ones of its number do not."""
        ...

    def entries(self) -> list[Shard]:
        """All that was entered, in that order."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes of the files by name."""
        ...

    def find(self, part: int) -> Shard | None:
        """The entry of a shard whose file is whole."""
        ...


class LocalShardFiles:
    """A directory with one manifest file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, file: str, table: pa.Table, options: Mapping[str, Any]) -> pa.Buffer:  # noqa: D102
        path = self.directory / file
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, **options)
        return self.load(file)

    def load(self, file: str) -> pa.Buffer:  # noqa: D102
        with pa.memory_map(str(self.directory / file)) as content:
            return content.read_buffer()

    def delete(self, file: str) -> None:  # noqa: D102
        (self.directory / file).unlink()

    def enter(self, shard: Shard) -> None:  # noqa: D102
        path = self.directory / MANIFEST
        with explain_disk_errors(path), path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(asdict(shard)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[Shard]:  # noqa: D102
        path = self.directory / MANIFEST
        if not path.exists():
            return []
        # What follows the last line feed is a line that a crash tore.
        return [_parsed(line, path) for line in path.read_bytes().split(b"\n")[:-1]]

    def sizes(self) -> dict[str, int]:  # noqa: D102
        if not self.directory.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self.directory.glob("*.parquet")}

    def find(self, part: int) -> Shard | None:  # noqa: D102
        return whole_shards(self).get(part)


class StoredShardFiles:
    """A prefix in an object store with one manifest object a shard."""

    def __init__(self, place: ObjectStorePath) -> None:
        self.place = place

    def save(self, file: str, table: pa.Table, options: Mapping[str, Any]) -> pa.Buffer:  # noqa: D102
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        content = sink.getvalue()
        (self.place / file).put(content)
        return content

    def load(self, file: str) -> pa.Buffer:  # noqa: D102
        return pa.py_buffer((self.place / file).get())

    def delete(self, file: str) -> None:  # noqa: D102
        (self.place / file).delete()

    def enter(self, shard: Shard) -> None:  # noqa: D102
        # Under its part's number, so that entering it again replaces what was entered before.
        (self.place / _entry_name(shard.part)).put(json.dumps(asdict(shard)).encode())

    def entries(self) -> list[Shard]:  # noqa: D102
        names = sorted((self.place / MANIFEST_OBJECTS).sizes())
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(lambda name: _read(self.place / MANIFEST_OBJECTS / name), names))

    def sizes(self) -> dict[str, int]:  # noqa: D102
        return self.place.sizes()

    def find(self, part: int) -> Shard | None:  # noqa: D102
        # Without a look at the others, which are many.
        entry = (self.place / _entry_name(part)).find()
        shard = _parsed(entry, self.place) if entry else None
        return shard if shard and (self.place / shard.file).size() == shard.bytes else None


def whole_shards(files: ShardFiles) -> dict[int, Shard]:
    """The shards that count by number, in their order."""
    entries = {shard.part: shard for shard in files.entries()}
    sizes = files.sizes() if entries else {}
    return {part: entries[part] for part in sorted(entries) if sizes.get(entries[part].file) == entries[part].bytes}


def shard_files(directory: Location) -> ShardFiles:
    """By what the directory is."""
    return StoredShardFiles(directory) if isinstance(directory, ObjectStorePath) else LocalShardFiles(directory)


def _entry_name(part: int) -> str:
    return f"{MANIFEST_OBJECTS}/{part:05d}.json"


def _read(entry: ObjectStorePath) -> Shard:
    return _parsed(entry.get(), entry)


def _parsed(line: bytes, source: Location) -> Shard:
    try:
        return Shard(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"{source} is damaged ({error}); delete the directory to make its shards again") from error
