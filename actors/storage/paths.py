"""Files that are on a disk or in an object store alike: whole or absent, read, removed, and as local files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.storage.atomic import atomic_file, explain_disk_errors
from actors.storage.object_store import ObjectStorePath


@contextmanager
def atomic_write(target: Path | ObjectStorePath) -> Generator[Path]:
    """Gives a local path to write to; on leaving without an error it is at ``target``, whole. Directories are made.

    Raises:
        ResourceError: the disk is full, or the directory or store cannot be written.
    """
    if isinstance(target, ObjectStorePath):
        with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
            local = Path(directory) / target.name
            yield local
            target.put("", local)
        return
    with explain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as local:
        yield local


@contextmanager
def local_file(source: Path | ObjectStorePath) -> Generator[Path]:
    """A local file with the content of ``source`` as long as the block lasts.

    Raises:
        ResourceError: the store does not answer, or the disk is full.
    """
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
        local = Path(directory) / source.name
        source.fetch("", local)
        yield local


def content_of(source: Path | ObjectStorePath) -> bytes | None:
    """The bytes of a file; None without one."""
    if isinstance(source, ObjectStorePath):
        return source.find("")
    return source.read_bytes() if source.is_file() else None


def remove(target: Path | ObjectStorePath) -> None:
    """Removes a file, if it is there."""
    if isinstance(target, ObjectStorePath):
        target.delete("")
    else:
        target.unlink(missing_ok=True)


def remove_below(target: Path | ObjectStorePath) -> None:
    """Removes a directory with all that is in it."""
    if isinstance(target, ObjectStorePath):
        for name in target.sizes():
            target.delete(name)
    else:
        shutil.rmtree(target, ignore_errors=True)


def absolute(path: Path | ObjectStorePath) -> Path | ObjectStorePath:
    """What other processes know it by."""
    return path if isinstance(path, ObjectStorePath) else path.resolve()


def cache_dir() -> Path:
    """Where this machine keeps copies of what is in object stores; all of it can be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tangoflux"
