"""``samples/``: audio of the same held-out prompts at every iteration, for listening."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.storage.atomic import atomic_write
from actors.storage.json_lines import JsonLines, read_json_lines
from actors.storage.layout import iteration_name

__all__ = ["Sample", "SampleFolder", "read_samples"]

INDEX = "samples.jsonl"

SHOWN = ("reward", "judge", "recall", "exact")
"""The figures that are stored with a sample."""


@dataclass(frozen=True)
class Sample:
    """One line of ``samples.jsonl``. ``file`` is relative to ``samples/``; a figure that was not measured is None."""

    iteration: int
    prompt_id: str
    prompt: str
    duration_s: float
    file: str
    reward: float | None = None
    judge: float | None = None
    recall: float | None = None
    exact: float | None = None


class SampleFolder:
    """Writes audio as 16-bit FLAC under ``samples/i0000/`` and records it in ``samples.jsonl``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._index = JsonLines(directory / INDEX)

    def write(
        self, iteration: int, prompt_id: str, prompt: str, duration_s: float, flac: bytes, figures: Mapping[str, Any]
    ) -> Path:
        """Stores one sample and returns its file.

        Args:
            flac: a FLAC file, as ``tangoflux.data.flac`` writes it.
            figures: reward, judge, recall and exact of this audio, others are ignored; None means not measured.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        file = f"{iteration_name(iteration)}/{_file_stem(prompt_id)}.flac"
        with atomic_write(self.directory / file) as temporary:
            temporary.write_bytes(flac)
        known = {name: figures.get(name) for name in SHOWN}
        self._index.append(asdict(Sample(iteration, prompt_id, prompt, duration_s, file, **known)))
        return self.directory / file


def read_samples(directory: Path) -> list[Sample]:
    """The samples in ``directory`` by iteration and in the order of writing; the last one of a prompt counts."""
    rows = [Sample(**row) for row in read_json_lines(directory / INDEX)]
    latest = {(sample.iteration, sample.prompt_id): sample for sample in rows}
    return sorted(latest.values(), key=lambda sample: sample.iteration)


def _file_stem(prompt_id: str) -> str:
    """The prompt's id if it is a valid file name everywhere, else a readable part of it and its hash."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", prompt_id):
        return prompt_id
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", prompt_id)[:40].strip("-")
    digest = hashlib.blake2b(prompt_id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{readable}-{digest}".lstrip("-")
