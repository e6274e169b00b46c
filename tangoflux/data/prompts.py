"""Prompts, and the banks of prompts that users provide as files."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy as np

from tangoflux.data.text_rows import csv_rows, has_surrogate, id_text, parse_row, shown, text_lines, without_nulls
from tangoflux.errors import ConfigError, DataError
from tangoflux.sampling_params import MIN_DURATION_S
from tangoflux.seeding import derive_seed

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Ids name files, so they have only characters that every file system allows."""

ROW_KEYS = ("prompt", "duration_s", "id")
EXAMPLE = '{"prompt": "a dog barks"}'


@dataclass(frozen=True)
class Prompt:
    """A caption, the length of its audio in seconds, and an id that is unique in its bank."""

    id: str
    text: str
    duration_s: float


class PromptFile:
    """A bank of prompts in a file, read anew for each pass, so that a million prompts take no memory."""

    def __init__(self, path: str | Path, default_duration_s: float, max_duration_s: float) -> None:
        """Reads and checks every line.

        Args:
            path: a UTF-8 file: ``.txt``, one prompt per line (blank lines are skipped); ``.jsonl``, one object per line
                with ``prompt`` and optionally ``duration_s`` and ``id``; or ``.csv`` with these columns, where
                ``caption``, as in AudioCaps, may replace ``prompt``. Other keys are ignored, and null
                counts as absent.
            default_duration_s: seconds for prompts without a duration.
            max_duration_s: the model's longest duration in seconds.

        Raises:
            DataError: the file cannot be read, is empty or not text, a line is invalid, or two prompts have the same
                id; names ``file:line`` and the fix.
        """
        self.path = Path(path)
        self._durations = default_duration_s, max_duration_s
        # Eight bytes a prompt, and only while the file is checked.
        keys = array("Q", (derive_seed(prompt.id) for _, prompt in self._numbered()))
        self._size = len(keys)
        if not keys:
            raise DataError(f"{self.path} contains no prompts; write one per line")
        self._refuse_duplicates(_repeated(keys))
        self._stamp = _stamp(self.path)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Prompt]:
        """The prompts in the file's order; those without an id are p000001, p000002, ... by their position.

        Raises:
            DataError: the file has changed since it was checked.
        """
        if not self.path.is_file() or self._stamp != _stamp(self.path):
            raise DataError(f"{self.path} was changed while it was used; restore the old file and resume")
        return (prompt for _, prompt in self._numbered())

    def _numbered(self) -> Iterator[tuple[int, Prompt]]:
        for position, (number, row) in enumerate(_rows(self.path), start=1):
            yield number, checked_prompt(row, f"p{position:06d}", *self._durations, f"{self.path}:{number}")

    def _refuse_duplicates(self, repeated: set[int]) -> None:
        lines: dict[str, int] = {}
        for number, prompt in self._numbered() if repeated else ():
            if derive_seed(prompt.id) in repeated and (first := lines.setdefault(prompt.id, number)) != number:
                raise DataError(
                    f"{self.path}:{number}: id {prompt.id!r} is also that of line {first}; make every id unique"
                )


def load_prompts(path: str | Path, default_duration_s: float, max_duration_s: float) -> list[Prompt]:
    """All prompts of a ``PromptFile`` as a list."""
    return list(PromptFile(path, default_duration_s, max_duration_s))


def draw_prompts(bank: Collection[Prompt] | PromptFile, n: int, seed: int, iteration: int) -> list[Prompt]:
    """Draws ``n`` different prompts for an iteration, sorted by id.

    The draw depends on (seed, iteration, ids in the bank) only, not on the bank's order.

    Raises:
        ConfigError: the bank has fewer than ``n`` prompts.
    """
    if n > len(bank):
        raise ConfigError(
            f"an iteration draws {n} different prompts, but the bank has {len(bank)}; "
            "lower --prompts-per-iteration or provide more prompts"
        )
    drawn = nsmallest(n, bank, key=lambda prompt: derive_seed(seed, "draw_prompts", iteration, prompt.id))
    return sorted(drawn, key=lambda prompt: prompt.id)


def checked_prompt(
    row: dict[str, Any], default_id: str, default_duration_s: float, max_duration_s: float, origin: str
) -> Prompt:
    """The prompt of a row of a user's file.

    Raises:
        DataError: a value is missing or invalid; begins with ``origin``.
    """
    given = without_nulls(row)
    return Prompt(
        id=_checked_id(given.get("id", default_id), origin),
        text=_checked_text(row, origin),
        duration_s=_checked_duration(given.get("duration_s", default_duration_s), max_duration_s, origin),
    )


def _repeated(keys: array[int]) -> set[int]:
    """The keys that occur more than once."""
    ordered = np.sort(np.frombuffer(keys, np.uint64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a prompt file, with the numbers of their lines."""
    if file.suffix == ".txt":
        yield from ((number, {"prompt": line}) for number, line in text_lines(file, "prompt file"))
    elif file.suffix == ".jsonl":
        for number, line in text_lines(file, "prompt file"):
            yield number, parse_row(line, f"{file}:{number}", ROW_KEYS, EXAMPLE)
    elif file.suffix == ".csv":
        for number, row in csv_rows(file, "prompt file"):
            yield number, _from_text(row)
    else:
        raise DataError(
            f"{file}: a prompt file is named .txt (one prompt per line), .jsonl (one object per line) or .csv"
        )


def _from_text(row: dict[str, str]) -> dict[str, Any]:
    """A CSV row as a JSON row: empty cells count as absent."""
    values: dict[str, Any] = {key: text for key, text in row.items() if text}
    if "caption" in values:
        values.setdefault("prompt", values["caption"])
    if "duration_s" in values:
        with suppress(ValueError):
            values["duration_s"] = float(values["duration_s"])
    return values


def _checked_text(row: dict[str, Any], origin: str) -> str:
    if "prompt" not in row:
        raise DataError(f"{origin}: no 'prompt' among the keys {', '.join(map(repr, row)) or '(none)'}")
    text = row["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{origin}: prompt is {shown(text)}; it must be a non-empty text")
    if has_surrogate(text):
        raise DataError(f"{origin}: prompt has half of a surrogate pair, which is not a character; remove it")
    return text.strip()


def _checked_id(value: Any, origin: str) -> str:
    text = id_text(value)
    if not isinstance(text, str) or not ID_PATTERN.fullmatch(text):
        raise DataError(
            f"{origin}: id is {shown(value)}; it names files, so use 1 to 64 letters, digits, '.', '_' or '-' "
            "of ASCII, the first a letter or digit"
        )
    return text


def _checked_duration(value: Any, max_duration_s: float, origin: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_DURATION_S <= value <= max_duration_s:
        raise DataError(
            f"{origin}: duration_s is {shown(value)}; it must be a number of seconds from {MIN_DURATION_S:g} to "
            f"{max_duration_s:g}"
        )
    return float(value)
