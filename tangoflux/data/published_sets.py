"""Readers of the manifests of AudioCaps and WavCaps, and the choice among all formats.

Both list clips, not files: the files' names depend on who downloaded them. They are found in one directory tree by
their names without the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tangoflux.data.audio_folder import AudioFiles, Problem
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
from tangoflux.data.text_rows import id_text, raise_problems
from tangoflux.errors import DataError

Format = Literal["auto", "manifest", "audiocaps", "wavcaps"]

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
        file: ``.jsonl``, ``.csv`` or ``.parquet``, a folder of ``.parquet``, or WavCaps' ``.json``.
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
    folder = audio_dir or str(file.absolute() if file.is_dir() else file.absolute().parent)
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
        ids = [str(id_text(row.values.get("audiocap_id")) or "") for row in group]
        name, problem = files.find([*_audiocaps_names(video, float(start)), *filter(None, ids)])
        captions = [row.values.get("caption") for row in group]
        yield _with_problem(make_clip(group[0], f"{video}_{start}", name, locate(name, folder), captions), problem)


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
            id = checked_name(id_text(row.values.get("id")), "id", row.origin)
            name, problem = files.find([id.removesuffix(".wav")])
            duration_s, captions = seconds(row, "duration", None), row.values.get("caption")
            clip = make_clip(row, id, name, locate(name, folder), captions, duration_s=duration_s)
            yield _with_problem(clip, problem)
        except DataError as error:
            yield error


def _with_problem(clip: Clip, problem: Problem | None) -> Clip:
    return replace(clip, problem=clip.problem or problem)


def _refuse_duplicate_ids(file: Path, clips: Sequence[Clip]) -> None:
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise DataError(f"{file}: more than one clip has the id {clip.id!r}; make every id unique")
        seen.add(clip.id)
