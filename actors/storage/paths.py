"""Files on a disk or in an object store, read and removed in the same way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.storage.object_store import Location, ObjectStorePath


@contextmanager
def local_file(source: Location) -> Generator[Path]:
    """Yields a local file with the content of ``source``, which exists until the block ends.

    Raises:
        ResourceError: the store does not answer, or the disk is full.
    """
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
        local = Path(directory) / source.name
        source.fetch(local)
        yield local


def content_of(source: Location) -> bytes | None:
    """The content of a file; None if it does not exist."""
    if isinstance(source, ObjectStorePath):
        return source.find()
    return source.read_bytes() if source.is_file() else None


def remove(target: Location) -> None:
    """Removes a file if it exists."""
    if isinstance(target, ObjectStorePath):
        target.delete()
    else:
        target.unlink(missing_ok=True)


def remove_below(target: Location) -> None:
    """Removes a directory with everything in it."""
    if isinstance(target, ObjectStorePath):
        for name in target.sizes():
            (target / name).delete()
    else:
        shutil.rmtree(target, ignore_errors=True)


def absolute(path: Location) -> Location:
    """The path in the form that other processes can use."""
    return path if isinstance(path, ObjectStorePath) else path.resolve()


def cache_dir() -> Path:
    """Where this machine keeps copies of objects; everything in it can be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tangoflux"
