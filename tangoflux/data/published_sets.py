"""Readers of the manifests of AudioCaps and WavCaps, and the choice among all formats.

Both list clips, not files: the files' names depend on who downloaded them. They are found in one directory tree by
their names without the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from tangoflux.data.manifest import (
    Clip,
    Row,
    checked_name,
    locate,
    make_clip,
    manifest_clips,
    read_rows,
    seconds,
)
from tangoflux.data.text_rows import raise_problems
from tangoflux.errors import ConfigError, DataError

Format = Literal["auto", "manifest", "audiocaps", "wavcaps"]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")

AUDIOCAPS_S = 10
"""Length of AudioCaps' clips: a clip is seconds ``start_time`` to ``start_time`` + 10 of a video."""

NEEDED = {
    "manifest": (("audio",), ("caption", "captions")),
    "audiocaps": (("youtube_id",), ("start_time",), ("caption",)),
    "wavcaps": (("id",), ("caption",)),
}
"""The columns of each format; any one of an inner tuple suffices."""


def load_manifest(file: Path, audio_dir: str | None = None, format: Format = "auto") -> list[Clip]:
    """Reads a manifest without opening the audio.

    Args:
        file: ``.jsonl``, ``.csv`` or ``.parquet``, or WavCaps' ``.json``.
        audio_dir: path or URI of the directory that paths are relative to (default: the manifest's), or that has
            AudioCaps' and WavCaps' files somewhere below it.
        format: the meaning of the columns; auto picks the format that they match.

    Returns:
        at least one clip, in the file's order, with unique ids.

    Raises:
        DataError: the file cannot be read, has other columns, or rows are invalid; names each with the reason.
    """
    rows = read_rows(file)
    kind = _kind(file, rows[0], format)
    folder = audio_dir or str(file.absolute().parent)
    if "://" not in folder:
        folder = os.path.abspath(os.path.expanduser(folder))
    readers = {"manifest": manifest_clips, "audiocaps": _audiocaps, "wavcaps": _wavcaps}
    clips: list[Clip] = []
    problems: list[str] = []
    for clip in readers[kind](rows, folder):
        if isinstance(clip, Clip):
            clips.append(clip)
        else:
            problems.append(str(clip))
    raise_problems(problems)
    _refuse_duplicate_ids(file, clips)
    return clips


def _kind(file: Path, first: Row, format: Format) -> str:
    columns = list(first.values)
    wanted = ["audiocaps", "wavcaps", "manifest"] if format == "auto" else [format]
    if format == "auto" and file.suffix != ".json":
        wanted.remove("wavcaps")
    for kind in wanted:
        if all(any(name in columns for name in names) for names in NEEDED[kind]):
            return kind
    expected = " or ".join(
        f"{' and '.join(map(' or '.join, NEEDED[kind]))}" + (f" ({kind})" if kind != "manifest" else "")
        for kind in reversed(wanted)
    )
    raise DataError(f"{file} has the columns {', '.join(map(str, columns)) or '(none)'}; expected {expected}")


def _audiocaps(rows: Sequence[Row], folder: str) -> Iterator[Clip | DataError]:
    """Clips of AudioCaps, which has one row per caption; a clip's file has just the clip."""
    files = AudioFiles(folder)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        try:
            video = checked_name(row.values.get("youtube_id"), "youtube_id", row.origin)
            start = f"{seconds(row, 'start_time', 0.0):g}"
        except DataError as error:
            yield error
        else:
            groups.setdefault((video, start), []).append(row)
    for (video, start), group in groups.items():
        ids = [str(row.values.get("audiocap_id", "")) for row in group]
        name = files.find([*_audiocaps_names(video, float(start)), *filter(None, ids)])
        captions = [row.values.get("caption") for row in group]
        yield make_clip(group[0], f"{video}_{start}", name, locate(name, folder), captions)


def _audiocaps_names(video: str, start_s: float) -> list[str]:
    """Possible names of a clip's file without the suffix, the most common one first."""
    end_s = start_s + AUDIOCAPS_S
    spans = [f"{start_s:g}", f"{start_s:g}_{end_s:g}", f"{start_s:.3f}_{end_s:.3f}", f"{start_s:.0f}000_{end_s:.0f}000"]
    names = [video, *(f"{video}_{span}" for span in spans)]
    return [prefix + name for prefix in ("Y", "") for name in names]


def _wavcaps(rows: Sequence[Row], folder: str) -> Iterator[Clip | DataError]:
    """Clips of WavCaps' four sources. AudioSet's ids end in .wav, though the files distributed are FLAC."""
    files = AudioFiles(folder)
    for row in rows:
        try:
            id = checked_name(str(row.values.get("id", "")), "id", row.origin)
            name = files.find([id.removesuffix(".wav")])
            duration_s = seconds(row, "duration", None)
            yield make_clip(row, id, name, locate(name, folder), row.values.get("caption"), duration_s=duration_s)
        except DataError as error:
            yield error


class AudioFiles:
    """The audio files below a directory, by their names without the suffix."""

    def __init__(self, folder: str) -> None:
        """Lists the files.

        Raises:
            ConfigError: there is no such directory.
        """
        self._folder = folder
        self._files: dict[str, list[str]] = {}
        try:
            system, base = FileSystem.from_uri(folder)
            found = cast(list[Any], system.get_file_info(FileSelector(base, recursive=True)))
        except (OSError, pa.ArrowInvalid) as error:
            raise ConfigError(f"the audio directory {folder} cannot be listed: {error}") from None
        for info in found:
            path = PurePosixPath(info.path)
            if info.type == FileType.File and path.suffix.lower() in AUDIO_SUFFIXES:
                self._files.setdefault(path.stem, []).append(str(path.relative_to(base)))

    def find(self, names: Sequence[str]) -> str:
        """The path, relative to the directory, of a file with the first of these names that exists.

        If there is none, the path that was expected.

        Raises:
            DataError: several files have this name.
        """
        for name in names:
            files = self._files.get(name, [])
            if len(files) > 1:
                two = " and ".join(sorted(files)[:2])
                raise DataError(f"{self._folder} has {two}, which may both be {name}; name a directory below it")
            if files:
                return files[0]
        return f"{names[0]}.wav"


def _refuse_duplicate_ids(file: Path, clips: Sequence[Clip]) -> None:
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise DataError(f"{file}: more than one clip has the id {clip.id!r}; make every id unique")
        seen.add(clip.id)
