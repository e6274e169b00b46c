"""Manifests of captioned audio files for training, in this project's format or a published one.

Ours is a table (.jsonl, .csv or .parquet) with the columns ``audio`` and ``caption``, and optionally ``start``,
``duration`` and ``id``; in .parquet, ``audio`` may be the audio itself. The readers of other formats are in
``published_sets.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from tangoflux.data.parquet import parquet_rows
from tangoflux.data.text_rows import csv_rows, has_surrogate, id_text, is_null, parse_row, read_text, shown, text_lines
from tangoflux.errors import DataError

COLUMNS = ("audio", "caption", "captions", "start", "duration", "id")
READ = (*COLUMNS, "audiocap_id", "youtube_id", "start_time")
"""Columns read from a Parquet file, including those of AudioCaps."""

EXAMPLE = '{"audio": "dog.wav", "caption": "a dog barks"}'

MAX_CAPTION_CHARS = 2000
"""A longer text is not a caption: training uses its first 64 tokens only."""

MAX_NAME_CHARS = 4096


@dataclass(frozen=True)
class Clip:
    """A part of an audio file with its captions.

    Attributes:
        id: unique in its manifest.
        source: the audio's path or URI, as the manifest has it.
        location: an absolute path, or a URI.
        captions: at least one; all valid unless there is a ``problem``.
        start_s, duration_s: the part of the file in seconds; a duration of None extends to its end.
        problem: why the clip cannot be used, as (short reason, details); None if it can.
        embedded: the Parquet file, and its row counted from 0, that hold the audio; ``location`` counts if they do not.
    """

    id: str
    source: str
    location: str
    captions: tuple[str, ...]
    start_s: float = 0.0
    duration_s: float | None = None
    problem: tuple[str, str] | None = None
    embedded: tuple[str, int] | None = None


class Row(NamedTuple):
    """A row of a table; ``origin`` is its file and line, for errors, and ``embedded`` as in its ``Clip``."""

    origin: str
    values: dict[str, Any]
    embedded: tuple[str, int] | None = None


def manifest_files(path: Path) -> list[Path]:
    """The files of a manifest: the file itself, or a folder's Parquet files in the order of their names.

    Raises:
        DataError: the folder cannot be read or has none; suggests a folder below that has some.
    """
    if not path.is_dir():
        return [path]
    try:
        if files := _parquet_files(path):
            return files
        below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _parquet_files(folder)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    hint = f"; did you mean {below[0]}?" if below else "; name a .jsonl, .csv or .parquet"
    raise DataError(f"{path} is a folder without .parquet files{hint}")


def read_rows(path: Path) -> list[Row]:
    """The rows of a .jsonl, .csv or .parquet file, or of a folder's .parquet files; of WavCaps' .json, its ``data``.

    Raises:
        DataError: a file cannot be read or has another format, there are no rows, or files have different columns.
    """
    rows: list[Row] = []
    for file in manifest_files(path):
        found = _file_rows(file)
        if rows and found and rows[0].values.keys() != found[0].values.keys():
            raise DataError(
                f"{file} has the columns {', '.join(found[0].values)}, and other files of {path} have "
                f"{', '.join(rows[0].values)}; give each set a folder of its own"
            )
        rows += found
    if not rows:
        raise DataError(f"{path} contains no rows")
    return rows


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _file_rows(file: Path) -> list[Row]:
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet, ".json": _wavcaps_json}
    if file.suffix not in readers:
        raise DataError(f"{file}: a manifest is named .jsonl, .csv or .parquet, or .json if it is one of WavCaps")
    return list(readers[file.suffix](file))


def manifest_clips(rows: Sequence[Row], folder: str) -> Iterator[Clip | DataError]:
    """The clips of rows in our format, or the error of a row.

    Args:
        folder: the path or URI that audio paths are relative to.
    """
    for number, row in enumerate(rows, start=1):
        try:
            yield _clip(row, f"c{number:07d}", folder)
        except DataError as error:
            yield error


def make_clip(row: Row, id: object, source: str, location: str, captions: object, **part: float | None) -> Clip:
    """A clip of checked values.

    Args:
        captions: a text or a list of texts; all else becomes the clip's ``problem``.
        part: ``start_s``, ``duration_s``.

    Raises:
        DataError: a value has the wrong type; begins with the row's origin.
    """
    texts, problem = _captions(captions)
    checked = checked_name(id_text(id), "id", row.origin)
    problem = problem or caption_problem(texts)
    return Clip(checked, source, location, texts, **part, problem=problem, embedded=row.embedded)  # pyright: ignore


def caption_problem(captions: Sequence[str]) -> tuple[str, str] | None:
    """Why a clip with these captions cannot be used."""
    if not all(captions) or not captions:
        return "empty caption", "a caption has no text"
    longest = max(captions, key=len)
    if len(longest) > MAX_CAPTION_CHARS:
        return "huge caption", f"a caption has {len(longest)} characters, the limit is {MAX_CAPTION_CHARS}"
    if any(map(has_surrogate, captions)):
        return "unreadable caption", "a caption has half of a surrogate pair, which is not a character"
    return None


def checked_name(value: object, name: str, origin: str) -> str:
    """The value, which must be a text of reasonable length.

    Raises:
        DataError: it is not; begins with ``origin``.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS or "\0" in value or has_surrogate(value):
        raise DataError(f"{origin}: {name} is {shown(value)}; it must be a text of 1 to {MAX_NAME_CHARS} characters")
    return value


def seconds(row: Row, name: str, default: float | None) -> float | None:
    """An optional number of seconds of the row; a duration must be above 0.

    Raises:
        DataError: it is not such a number; begins with the row's origin.
    """
    value = row.values.get(name)
    if is_null(value) or value == "":
        return default
    try:
        number = math.inf if isinstance(value, bool) else float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number):
        return default
    if not math.isfinite(number) or number < 0 or (name == "duration" and number == 0):
        least = "above 0" if name == "duration" else "of at least 0"
        raise DataError(f"{row.origin}: {name} is {shown(value)}; it must be a number of seconds {least}")
    return number


def locate(audio: str, folder: str) -> str:
    """The path or URI of an audio file that a manifest names relative to a folder."""
    if "://" in audio:
        return audio
    return f"{folder.rstrip('/')}/{quote(audio)}" if "://" in folder else str(Path(folder) / audio)


def _clip(row: Row, default_id: str, folder: str) -> Clip:
    audio = row.values.get("audio")
    if row.embedded and (is_null(audio) or audio == ""):
        source, location = row.origin, ""
    else:
        source = checked_name(audio, "audio", row.origin)
        location = locate(source, folder)
    captions = row.values.get("captions")
    return make_clip(
        row,
        default_id if is_null(id := row.values.get("id")) or id == "" else id,
        source,
        location,
        row.values.get("caption") if is_null(captions) else captions,
        start_s=seconds(row, "start", 0.0),
        duration_s=seconds(row, "duration", None),
    )


def _captions(value: object) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """The captions, with a problem if one is no text. A number is none in any format, and null is an empty one."""
    values = cast(list[object], value) if isinstance(value, list) else [value]
    texts = tuple(text.strip() if isinstance(text, str) else "" for text in values)
    for text in values:
        if not is_null(text) and (not isinstance(text, str) or _is_number(text)):
            return texts, ("unreadable caption", f"a caption is {shown(text)}, which is no text")
    return texts, None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in text_lines(file, "manifest"):
        origin = f"{file}:{number}"
        yield Row(origin, parse_row(line, origin, (), EXAMPLE))


def _csv(file: Path) -> Iterator[Row]:
    for number, values in csv_rows(file, "manifest"):
        yield Row(f"{file}:{number}", values)


def _parquet(file: Path) -> Iterator[Row]:
    for number, (values, is_embedded) in enumerate(parquet_rows(file, READ, COLUMNS)):
        yield Row(f"{file}, row {number + 1}", values, (str(file.absolute()), number) if is_embedded else None)


def _wavcaps_json(file: Path) -> Iterator[Row]:
    try:
        values: object = json.loads(read_text(file, "manifest"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error})") from None
    data = cast(dict[str, object], values).get("data") if isinstance(values, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise DataError(f'{file} is not a manifest of WavCaps: it must be an object with "data", a list of clips')
    for number, row in enumerate(cast(list[dict[str, Any]], data)):
        yield Row(f"{file}, data[{number}]", row)
