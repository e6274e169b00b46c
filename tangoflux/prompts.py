"""Prompts: what a sample is asked to sound like, and the banks of them that users bring as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tangoflux.errors import ConfigError, DataError
from tangoflux.seeding import derive_seed
from tangoflux.text_rows import csv_rows, parse_row, shown, text_lines

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


def load_prompts(path: str | Path, default_duration_s: float, max_duration_s: float) -> list[Prompt]:
    """Reads a prompt bank, in the file's order.

    Args:
        path: ``.txt``, one prompt a line (blank lines are skipped), or ``.jsonl``, one object a line with ``prompt``
            and, where wanted, ``duration_s`` and ``id``, or ``.csv`` with these columns; other keys are ignored, and
            ``caption``, as in AudioCaps, may stand for ``prompt`` in a ``.csv``. UTF-8, at most 64 MiB.
        default_duration_s: seconds for prompts that name no duration.
        max_duration_s: longest duration that the model can make, in seconds.

    Returns:
        at least one prompt; those without an id of their own are p000001, p000002, ... by their place in the file.

    Raises:
        DataError: the file cannot be read, is empty or not text, or a line is wrong; names ``file:line`` and the fix.
    """
    file = Path(path)
    prompts: list[Prompt] = []
    lines_of_ids: dict[str, int] = {}
    for number, row in _rows(file):
        place = f"{file}:{number}"
        prompt = checked_prompt(row, f"p{len(prompts) + 1:06d}", default_duration_s, max_duration_s, place)
        if prompt.id in lines_of_ids:
            first = lines_of_ids[prompt.id]
            raise DataError(f"{file}:{number}: id {prompt.id!r} is that of line {first} too; make every id unique")
        lines_of_ids[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{file} holds no prompts; write one a line")
    return prompts


def draw_prompts(bank: Sequence[Prompt], n: int, seed: int, iteration: int) -> list[Prompt]:
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
    drawn = sorted(bank, key=lambda prompt: derive_seed(seed, "draw_prompts", iteration, prompt.id))[:n]
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
    if any("\ud800" <= character <= "\udfff" for character in text):
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
