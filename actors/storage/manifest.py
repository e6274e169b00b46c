"""The manifest of a directory of shards: which shards count, with the size and the hash of each one's file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from actors.storage.json_lines import JsonLines, read_json_lines
from actors.storage.object_store import Location, ObjectStorePath
from tangoflux.errors import DataError

MANIFEST = ".manifest"
"""Hidden, because readers of a Parquet directory take every visible file for a shard."""

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """An entry of a manifest."""

    part: int
    file: str
    rows: int
    bytes: int
    sha256: str


class Manifest(Protocol):
    """The entries; of several with the same part number the last one counts."""

    def enter(self, shard: Shard) -> None:
        """Commits a shard: from now on it counts, and earlier ones of its number do not."""
        ...

    def entries(self) -> dict[int, Shard]:
        """All shards by number, in ascending order."""
        ...

    def find(self, part: int) -> Shard | None:
        """The shard of one number."""
        ...


class ManifestFile:
    """On a disk: ``.manifest.jsonl``, one JSON object a line."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{MANIFEST}.jsonl"

    def enter(self, shard: Shard) -> None:  # noqa: D102
        JsonLines(self._path, sync=True).append(asdict(shard))

    def entries(self) -> dict[int, Shard]:  # noqa: D102
        shards = {shard.part: shard for shard in (_shard(row, self._path) for row in read_json_lines(self._path))}
        return {part: shards[part] for part in sorted(shards)}

    def find(self, part: int) -> Shard | None:  # noqa: D102
        return self.entries().get(part)


class ManifestObjects:
    """In an object store, which cannot append: one object a shard below ``.manifest``, put after the shard."""

    def __init__(self, directory: ObjectStorePath) -> None:
        self._directory = directory / MANIFEST

    def enter(self, shard: Shard) -> None:  # noqa: D102
        # Named by the part's number, so that entering it again replaces the earlier entry.
        self._entry(shard.part).put(json.dumps(asdict(shard)).encode())

    def entries(self) -> dict[int, Shard]:  # noqa: D102
        names = sorted(self._directory.sizes())
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            found = pool.map(lambda name: _parse((self._directory / name).get(), self._directory / name), names)
            return {shard.part: shard for shard in found}

    def find(self, part: int) -> Shard | None:  # noqa: D102
        # Without reading the other entries: there may be many.
        entry = self._entry(part).find()
        return _parse(entry, self._entry(part)) if entry else None

    def _entry(self, part: int) -> ObjectStorePath:
        return self._directory / f"{part:05d}.json"


def manifest_of(directory: Location) -> Manifest:
    """The manifest of a directory on a disk or in an object store."""
    return ManifestObjects(directory) if isinstance(directory, ObjectStorePath) else ManifestFile(directory)


def _parse(entry: bytes, source: Location) -> Shard:
    try:
        return _shard(json.loads(entry), source)
    except ValueError as error:
        raise _damaged(source, error) from error


def _shard(row: dict[str, Any], source: Location) -> Shard:
    try:
        return Shard(**row)
    except TypeError as error:
        raise _damaged(source, error) from error


def _damaged(source: Location, error: Exception) -> DataError:
    return DataError(f"{source} is damaged ({error}); delete the directory to have its shards written again")
