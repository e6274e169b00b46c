"""Files on a disk or in an object store, read and removed in the same way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from actors.storage.atomic import atomic_write, explain_disk_errors
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


def content_of(file: Location) -> bytes | None:
    """The content of a file; None if it does not exist."""
    if isinstance(file, ObjectStorePath):
        return file.find()
    return file.read_bytes() if file.is_file() else None


def size_of(file: Location) -> int | None:
    """The bytes of a file; None if it does not exist."""
    if isinstance(file, ObjectStorePath):
        return file.size()
    return file.stat().st_size if file.is_file() else None


def modified(file: Location) -> float:
    """When a file was last written, by the clock of the storage, in unix seconds; 0 if it does not exist."""
    if isinstance(file, ObjectStorePath):
        return file.modified()
    return file.stat().st_mtime if file.is_file() else 0.0


def sizes(directory: Location) -> dict[str, int]:
    """Bytes of all files in a directory and those below, by their path relative to it."""
    if isinstance(directory, ObjectStorePath):
        return directory.sizes()
    found = dict[str, int]()
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):  # deleted in the meantime
            if file.is_file():
                found[file.relative_to(directory).as_posix()] = file.stat().st_size
    return found


def write(file: Location, content: bytes | pa.Buffer) -> None:
    """Writes a complete file; see ``atomic_write``."""
    if isinstance(file, ObjectStorePath):
        return file.put(content)
    with atomic_write(file) as temporary:
        temporary.write_bytes(content)


def create(file: Location, content: bytes) -> bool:
    """Creates a file unless it exists; of several processes that try at the same time, one gets True.

    On a disk, the file exists for a moment before it has its content.

    Raises:
        ResourceError: the disk is full, or the directory or store cannot be written.
    """
    if isinstance(file, ObjectStorePath):
        return file.create(content)
    with explain_disk_errors(file):
        while True:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("xb") as opened:
                    opened.write(content)
            except FileExistsError:
                return False
            except FileNotFoundError:  # another process has removed the directory
                continue
            return True


def remove(file: Location) -> None:
    """Removes a file if it exists."""
    if isinstance(file, ObjectStorePath):
        file.delete()
    else:
        file.unlink(missing_ok=True)


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
