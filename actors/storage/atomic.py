"""Whole or absent: how files that another process reads come into being."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tangoflux.errors import ResourceError


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Gives a hidden temporary path beside ``path``; on leaving without an error it is on disk under its name.

    Raises:
        ResourceError: the disk is full or the directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_disk_errors(path):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Generator[Path]:
    """As ``atomic_file``, for a directory with all its files; the temporary one is made empty.

    Raises:
        ResourceError: the disk is full or the parent cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explain_disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in (*temporary.rglob("*"), temporary):
                sync(file)
            temporary.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explain_disk_errors(path: Path) -> Generator[None]:
    """Turns the operating system's errors while ``path`` is written into one line that says what to do."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free / 1e9
        raise ResourceError(
            f"{path} cannot be written: {error.strerror or error} ({free:.1f} GB free); "
            "make room or choose another directory, then resume"
        ) from error


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a directory's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
