"""The audio files below a directory, by their names without the suffix."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from tangoflux.data.text_rows import has_surrogate, shown
from tangoflux.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

READABLE = (
    *(
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".mp2",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
    ),
    *(".w64", ".rf64", ".voc", ".sph", ".nist", ".sf", ".avr", ".paf", ".pvf", ".svx", ".iff", ".xi"),
)
"""Suffixes of what libsndfile reads."""

UNREADABLE = (
    *(".m4a", ".m4b", ".mp4", ".aac", ".webm", ".weba", ".mkv", ".mka", ".wma", ".wmv", ".asf", ".avi", ".mov", ".flv"),
    *(".3gp", ".ac3", ".eac3", ".dts", ".amr", ".ape", ".wv", ".tta", ".mpc", ".ra", ".rm", ".ts", ".mpg", ".mpeg"),
    *(".raw", ".pcm"),
)
"""Suffixes of other audio and video, which must be converted first."""

Problem = tuple[str, str]
"""Why a file cannot be used, as (short reason, details)."""


class AudioFiles:
    """The files of a local directory, or of one in an object store.

    Hidden files and directories do not count. Links to directories are followed, each directory once.
    """

    def __init__(self, folder: str) -> None:
        """Lists the files.

        Raises:
            ConfigError: there is no such directory.
        """
        self._folder = folder
        self._readable: dict[str, list[str]] = {}
        self._unreadable: dict[str, list[str]] = {}
        for name in _names(folder):
            path = PurePosixPath(name)
            suffix = path.suffix.lower()
            if suffix in READABLE:
                self._readable.setdefault(path.stem, []).append(name)
            elif suffix in UNREADABLE:
                self._unreadable.setdefault(path.stem, []).append(name)

    def find(self, names: Sequence[str]) -> tuple[str, Problem | None]:
        """The path, relative to the directory, of a file with the first of these names that exists.

        If there is none, the path that was expected. A file that cannot be used has a problem.

        Raises:
            DataError: several files have this name.
        """
        for name in names:
            if files := self._readable.get(name):
                return self._one(name, files)
        for name in names:
            if files := self._unreadable.get(name):
                suffix = PurePosixPath(files[0]).suffix
                return files[0], ("other format", f"found as {suffix}, convert it to .flac or .wav: {shown(files[0])}")
        return f"{names[0]}.wav", None

    def _one(self, name: str, files: Sequence[str]) -> tuple[str, Problem | None]:
        if len({os.path.realpath(os.path.join(self._folder, file)) for file in files}) > 1:
            two = " and ".join(sorted(files)[:2])
            raise DataError(f"{self._folder} has {two}, which may both be {name}; name a directory below it")
        if has_surrogate(files[0]):
            expected = f"{name}{PurePosixPath(files[0]).suffix}"
            return expected, ("unreadable name", f"found in a directory whose name is not UTF-8: {shown(files[0])}")
        return files[0], None


def _names(folder: str) -> Iterator[str]:
    """The paths of the files relative to the directory."""
    if has_surrogate(folder):
        raise ConfigError(f"the audio directory {shown(folder)} has a name that is not UTF-8; name a link to it")
    try:
        system, base = FileSystem.from_uri(folder)
        if isinstance(system, LocalFileSystem):
            yield from _local_names(Path(base))
            return
        found = cast(list[Any], system.get_file_info(FileSelector(base, recursive=True)))
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"the audio directory {folder} cannot be listed: {error}") from None
    for info in found:
        path = PurePosixPath(info.path).relative_to(base)
        if info.type == FileType.File and not any(part.startswith(".") for part in path.parts):
            yield str(path)


def _local_names(root: Path) -> Iterator[str]:
    # A link to a directory that holds this one adds nothing but circles.
    seen = {_identity(parent) for parent in root.resolve().parents}
    directories, links = deque([root]), deque[Path]()
    while directories or links:
        # Links last, so that a file is found under its own name.
        directory = directories.popleft() if directories else links.popleft()
        try:
            identity, entries = _identity(directory), sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            if directory == root:
                raise
            logger.warning("%s cannot be listed (%s): its files count as missing", directory, error.strerror)
            continue
        if identity in seen:
            continue
        seen.add(identity)
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if os.path.isdir(path):
                (links if entry.is_symlink() else directories).append(path)
            elif os.path.isfile(path):
                yield path.relative_to(root).as_posix()


def _identity(directory: Path) -> tuple[int, int]:
    status = directory.stat()
    return status.st_dev, status.st_ino
