"""Atomic writes: a file or directory appears under its name complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.storage.object_store import Location, ObjectStorePath
from tangoflux.errors import ResourceError


@contextmanager
def atomic_write(target: Location) -> Generator[Path]:
    """Yields a local path to write to; when the block ends without an error, the file is at ``target``.

    Missing directories are created. On a disk the file is flushed before it gets its name.

    Raises:
        ResourceError: the disk is full, or the directory or store cannot be written.
    """
    if isinstance(target, ObjectStorePath):
        with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
            local = Path(directory) / target.name
            yield local
            target.put(local)
        return
    temporary = _temporary(target)
    with explain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Generator[Path]:
    """As ``atomic_write``, for a local directory with all its files: yields an empty one.

    Raises:
        ResourceError: the disk is full or the parent directory cannot be written.
    """
    temporary = _temporary(target)
    with explain_disk_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explain_disk_errors(path: Path) -> Generator[None]:
    """Turns the operating system's errors on writing ``path`` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free / 1e9
        raise ResourceError(
            f"{path} cannot be written: {error.strerror or error} ({free:.1f} GB free); "
            "make room or choose another directory, then resume"
        ) from error


def _temporary(target: Path) -> Path:
    """Hidden, because readers of a directory take every visible file for theirs."""
    return target.with_name(f".{target.name}.tmp")


def _publish(temporary: Path, target: Path) -> None:
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    temporary.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or a directory's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
