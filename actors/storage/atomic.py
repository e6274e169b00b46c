"""Atomic writes: a file or directory appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from actors.storage.object_store import Location, ObjectStorePath
from tangoflux.errors import ResourceError

ADVICE = {
    errno.EACCES: "this user may not write there: change the permissions or choose another place",
    errno.EPERM: "this user may not write there: change the permissions or choose another place",
    errno.EROFS: "choose a place on a file system that can be written to",
    errno.EEXIST: "{file} is in the way: remove it or choose another name",
    errno.EBUSY: "{file} is in use, or a mount point: choose another name",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "a directory has this name: choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle: choose another path",
    errno.EFBIG: "raise the limit of a file's size, for example with ulimit -f unlimited",
    errno.EMFILE: "raise the limit of open files, for example with ulimit -n 65536",
    errno.ENFILE: "raise the machine's limit of open files, sysctl fs.file-max",
}
"""What to do about an error of the operating system on writing."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_write(target: Location) -> Generator[Path]:
    """Yields a local path to write to; when the block ends without an error, the file is at ``target``.

    Missing directories are created. On a disk the file is flushed before it gets its name.

    Raises:
        ResourceError: the disk is full, or the directory or store cannot be written.
    """
    if isinstance(target, ObjectStorePath):
        with tempfile.TemporaryDirectory(prefix="tangoflux-") as directory:
            local = Path(directory) / "content"
            yield local
            target.put(local)
        return
    temporary = temporary_path(target)
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
    temporary = temporary_path(target)
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
        raise ResourceError(f"{_culprit(error, path)}: {error.strerror or error}{_advice(error, path)}") from error


def temporary_path(target: Path) -> Path:
    """Hidden, because readers of a directory take every visible file for theirs; short, however long the name is."""
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    return target.with_name(f".{name}.tmp")


def _culprit(error: OSError, path: Path) -> str:
    """What the error is about: ``path``, or another file that was used to write it."""
    other = Path(error.filename) if isinstance(error.filename, str) else path
    is_ours = other.absolute().is_relative_to(path.absolute().parent) or path.absolute().is_relative_to(
        other.absolute()
    )
    return f"{path} cannot be written" if is_ours else f"{other} cannot be used"


def _advice(error: OSError, path: Path) -> str:
    if error.errno in NO_ROOM:
        free = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free
        return f" ({free / 1e9:.1f} GB free); make room or choose another directory"
    return f"; {ADVICE[error.errno].format(file=error.filename or path)}" if error.errno in ADVICE else ""


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
