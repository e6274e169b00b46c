"""Prompts: what a sample is asked to sound like, and the banks of them that users bring as files."""

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

from tangoflux.data.text_rows import csv_rows, parse_row, shown, text_lines
from tangoflux.errors import ConfigError, DataError
from tangoflux.seeding import derive_seed

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Ids name files, so they hold only what every file system takes."""

ROW_KEYS = ("prompt", "duration_s", "id")
EXAMPLE = '{"prompt": "a dog barks"}'


@dataclass(frozen=True)
class Prompt:
    """A caption, the length in seconds of the audio wanted for it, and an id that is unique in its bank."""

    id: str
    text: str
    duration_s: float


class PromptFile:
    """A bank of prompts in a file. It is read anew for each pass, so that a million prompts take no memory."""

    def __init__(self, path: str | Path, default_duration_s: float, max_duration_s: float) -> None:
        """Reads and checks every line.

        Args:
            path: ``.txt``, one prompt a line (blank lines are skipped), or ``.jsonl``, one object a line with
                ``prompt`` and, where wanted, ``duration_s`` and ``id``, or ``.csv`` with these columns; other keys are
                ignored, and ``caption``, as in AudioCaps, may stand for ``prompt`` in a ``.csv``. UTF-8.
            default_duration_s: seconds for prompts that name no duration.
            max_duration_s: longest duration that the model can make, in seconds.

        Raises:
            DataError: the file cannot be read, is empty or not text, a line is wrong, or two prompts have one id; names
                ``file:line`` and the fix.
        """
        self.path = Path(path)
        self._durations = default_duration_s, max_duration_s
        # Eight bytes a prompt, and only while the file is checked.
        keys = array("Q", (derive_seed(prompt.id) for _, prompt in self._numbered()))
        self._size = len(keys)
        if not keys:
            raise DataError(f"{self.path} holds no prompts; write one a line")
        self._refuse_duplicates(_repeated(keys))
        self._stamp = _stamp(self.path)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Prompt]:
        """The prompts in the file's order; those without an id are p000001, p000002, ... by their place in it.

        Raises:
            DataError: the file was changed since it was checked.
        """
        if not self.path.is_file() or self._stamp != _stamp(self.path):
            raise DataError(f"{self.path} was changed while it was used; bring the old file back and resume")
        return (prompt for _, prompt in self._numbered())

    def _numbered(self) -> Iterator[tuple[int, Prompt]]:
        for place, (number, row) in enumerate(_rows(self.path), start=1):
            yield number, checked_prompt(row, f"p{place:06d}", *self._durations, f"{self.path}:{number}")

    def _refuse_duplicates(self, repeated: set[int]) -> None:
        lines: dict[str, int] = {}
        for number, prompt in self._numbered() if repeated else ():
            if derive_seed(prompt.id) in repeated and (first := lines.setdefault(prompt.id, number)) != number:
                raise DataError(
                    f"{self.path}:{number}: id {prompt.id!r} is that of line {first} too; make every id unique"
                )


def load_prompts(path: str | Path, default_duration_s: float, max_duration_s: float) -> list[Prompt]:
    """All prompts of a ``PromptFile``, in memory."""
    return list(PromptFile(path, default_duration_s, max_duration_s))


def draw_prompts(bank: Collection[Prompt] | PromptFile, n: int, seed: int, iteration: int) -> list[Prompt]:
    """Draws ``n`` different prompts for an iteration, returned sorted by id.

    The draw depends on (seed, iteration, ids in the bank) only, not on the bank's order.

    Raises:
        ConfigError: the bank holds fewer than ``n`` prompts.
    """
    if n > len(bank):
        raise ConfigError(
            f"an iteration draws {n} different prompts, but the bank holds {len(bank)}; "
            "lower --prompts-per-iteration or bring more prompts"
        )
    drawn = nsmallest(n, bank, key=lambda prompt: derive_seed(seed, "draw_prompts", iteration, prompt.id))
    return sorted(drawn, key=lambda prompt: prompt.id)


def checked_prompt(
    row: dict[str, Any], default_id: str, default_duration_s: float, max_duration_s: float, place: str
) -> Prompt:
    """The prompt of a row of a user's file.

    Raises:
        DataError: a value is missing or not allowed; begins with ``place``.
    """
    return Prompt(
        id=_checked_id(row.get("id", default_id), place),
        text=_checked_text(row, place),
        duration_s=_checked_duration(row.get("duration_s", default_duration_s), max_duration_s, place),
    )


def _repeated(keys: array[int]) -> set[int]:
    """The keys that are there more than once."""
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
        raise DataError(f"{file}: a prompt file is named .txt (one prompt a line), .jsonl (one object a line) or .csv")


def _from_text(row: dict[str, str]) -> dict[str, Any]:
    """A row of a CSV table, whose cells are texts; empty ones count as absent."""
    values: dict[str, Any] = {key: text for key, text in row.items() if text}
    if "caption" in values:
        values.setdefault("prompt", values["caption"])
    if "duration_s" in values:
        with suppress(ValueError):
            values["duration_s"] = float(values["duration_s"])
    return values


def _checked_text(row: dict[str, Any], place: str) -> str:
    if "prompt" not in row:
        raise DataError(f"{place}: no 'prompt' among the keys {', '.join(map(repr, row)) or '(none)'}")
    text = row["prompt"]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: prompt is {shown(text)}; it must be a text that is not empty")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{place}: prompt holds half of a surrogate pair, which is no character; remove it")
    return text.strip()


def _checked_id(value: Any, place: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not ID_PATTERN.fullmatch(text):
        raise DataError(
            f"{place}: id is {shown(value)}; it names files, so use 1 to 64 letters, digits, '.', '_' or '-' "
            "of ASCII, the first a letter or digit"
        )
    return text


def _checked_duration(value: Any, max_duration_s: float, place: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= max_duration_s:
        raise DataError(
            f"{place}: duration_s is {shown(value)}; it must be seconds, above 0 and at most {max_duration_s:g}"
        )
    return float(value)
