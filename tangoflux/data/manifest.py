"""Manifests: which audio files with which captions are to be learnt from, in this project's format or a published one.

Ours is a table (.jsonl, .csv or .parquet) with the columns ``audio`` and ``caption``, and where wanted ``start``,
``duration`` and ``id``. The readers of other formats are in ``published_sets.py``.
"""

# pyarrow comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from tangoflux.data.text_rows import csv_rows, parse_row, read_bytes, shown, text_lines
from tangoflux.errors import DataError

COLUMNS = ("audio", "caption", "captions", "start", "duration", "id")
READ = (*COLUMNS, "audiocap_id", "youtube_id", "start_time")
"""Columns that are read of a Parquet file, those of AudioCaps included."""

EXAMPLE = '{"audio": "dog.wav", "caption": "a dog barks"}'

MAX_CAPTION_CHARS = 2000
"""A longer text is no caption: the policy hears no more than its first 64 tokens in training."""

MAX_NAME_CHARS = 4096
MAX_PROBLEMS = 20
"""So many bad rows are named; of the rest, how many there are."""


@dataclass(frozen=True)
class Clip:
    """A piece of audio with its captions.

    Attributes:
        id: unique in its manifest.
        source: the audio's path or URI, as the manifest has it.
        location: an absolute path, or a URI.
        captions: at least one; all fit unless ``problem`` says otherwise.
        start_s, duration_s: which part of the file, in seconds; a duration of None goes to the end.
        problem: why the clip cannot be used, as (a word or two, the details); None where nothing speaks against it.
    """

    id: str
    source: str
    location: str
    captions: tuple[str, ...]
    start_s: float = 0.0
    duration_s: float | None = None
    problem: tuple[str, str] | None = None


class Row(NamedTuple):
    """A row of a table; ``place`` is where it stands, for errors."""

    place: str
    values: dict[str, Any]


def read_rows(file: Path) -> list[Row]:
    """The rows of a .jsonl, .csv or .parquet file; those of WavCaps' .json are its ``data``.

    Raises:
        DataError: the file cannot be read, is empty or of another kind.
    """
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet, ".json": _wavcaps_json}
    if file.suffix not in readers:
        raise DataError(f"{file}: a manifest is named .jsonl, .csv or .parquet, or .json where it is one of WavCaps")
    rows = list(readers[file.suffix](file))
    if not rows:
        raise DataError(f"{file} holds no rows")
    return rows


def manifest_clips(rows: Sequence[Row], folder: str) -> Iterator[Clip | DataError]:
    """The clips of our own format, or what is wrong with a row.

    Args:
        folder: a path or URI that paths are relative to.
    """
    for number, row in enumerate(rows, start=1):
        try:
            yield _clip(row, f"c{number:07d}", folder)
        except DataError as error:
            yield error


def make_clip(row: Row, id: object, source: str, location: str, captions: object, **part: float | None) -> Clip:
    """A clip whose values have been checked.

    Args:
        captions: a text or a list of texts; those that do not fit become the clip's ``problem``.
        part: ``start_s``, ``duration_s``.

    Raises:
        DataError: a value is of another kind; begins with the row's place.
    """
    texts = _captions(captions, row.place)
    number = isinstance(id, int) and not isinstance(id, bool)
    checked = named(str(id) if number else id, "id", row.place)
    return Clip(checked, source, location, texts, **part, problem=caption_problem(texts))  # pyright: ignore


def caption_problem(captions: Sequence[str]) -> tuple[str, str] | None:
    """Why a clip with these captions cannot be used."""
    if not all(captions) or not captions:
        return "empty caption", "a caption has no text"
    longest = max(captions, key=len)
    if len(longest) > MAX_CAPTION_CHARS:
        return "huge caption", f"a caption has {len(longest)} characters, the limit is {MAX_CAPTION_CHARS}"
    if any(map(_has_surrogate, captions)):
        return "unreadable caption", "a caption holds half of a surrogate pair, which is no character"
    return None


def named(value: object, name: str, place: str) -> str:
    """A text that can name something.

    Raises:
        DataError: it is none; begins with ``place``.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS or "\0" in value or _has_surrogate(value):
        raise DataError(f"{place}: {name} is {shown(value)}; it must be a text of 1 to {MAX_NAME_CHARS} characters")
    return value


def seconds(row: Row, name: str, default: float | None) -> float | None:
    """A number of seconds that the row may leave out; a duration is above 0.

    Raises:
        DataError: it is no such number; begins with the row's place.
    """
    value = row.values.get(name)
    if value is None or value == "":
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (name == "duration" and number == 0):
        least = "above 0" if name == "duration" else "of at least 0"
        raise DataError(f"{row.place}: {name} is {shown(value)}; it must be a number of seconds {least}")
    return number


def locate(audio: str, folder: str) -> str:
    """Where a file is that a manifest names relative to a folder; either may be a URI."""
    if "://" in audio:
        return audio
    return f"{folder.rstrip('/')}/{quote(audio)}" if "://" in folder else str(Path(folder) / audio)


def _clip(row: Row, default_id: str, folder: str) -> Clip:
    audio = named(row.values.get("audio"), "audio", row.place)
    captions = row.values.get("captions")
    return make_clip(
        row,
        default_id if row.values.get("id") in (None, "") else row.values["id"],
        audio,
        locate(audio, folder),
        row.values.get("caption") if captions is None else captions,
        start_s=seconds(row, "start", 0.0),
        duration_s=seconds(row, "duration", None),
    )


def _captions(value: object, place: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) or value is None else value
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        raise DataError(f"{place}: caption is {shown(value)}; it must be a text, or a list of texts")
    return tuple((text or "").strip() for text in cast(list[str | None], texts))


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in text_lines(file, "manifest"):
        place = f"{file}:{number}"
        yield Row(place, parse_row(line, place, (), EXAMPLE))


def _csv(file: Path) -> Iterator[Row]:
    for number, values in csv_rows(file, "manifest"):
        yield Row(f"{file}:{number}", values)


def _parquet(file: Path) -> Iterator[Row]:
    if not file.is_file():
        raise DataError(f"{file}: no such manifest")
    try:
        with pq.ParquetFile(file) as table:
            columns = [name for name in table.schema_arrow.names if name in READ] or table.schema_arrow.names
            rows = table.read(columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from None
    for number, values in enumerate(rows, start=1):
        yield Row(f"{file}, row {number}", values)


def _wavcaps_json(file: Path) -> Iterator[Row]:
    try:
        values: object = json.loads(read_bytes(file, "manifest"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error})") from None
    data = cast(dict[str, object], values).get("data") if isinstance(values, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise DataError(f'{file} is no manifest of WavCaps: it must be an object with "data", a list of clips')
    for number, row in enumerate(cast(list[dict[str, Any]], data)):
        yield Row(f"{file}, data[{number}]", row)
