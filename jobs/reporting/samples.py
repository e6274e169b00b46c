"""``samples/``: audio of the same held-out prompts at every iteration, for people to listen to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from actors.storage.atomic import atomic_write
from actors.storage.json_lines import JsonLines, read_json_lines

__all__ = ["Sample", "SampleFolder", "read_samples"]

INDEX = "samples.jsonl"


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
    exact: float | None = None


class SampleFolder:
    """Writes audio as 16-bit FLAC under ``samples/i0000/`` and enters it in ``samples.jsonl``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._index = JsonLines(directory / INDEX)

    def write(
        self,
        iteration: int,
        prompt_id: str,
        prompt: str,
        duration_s: float,
        waveform: npt.NDArray[np.float32],
        sample_rate_hz: int,
        figures: Mapping[str, float | None],
    ) -> Path:
        """Store one sample and give back its file.

        Args:
            waveform: (channels, samples) in [-1, 1]; what is beyond is clipped, what is not finite is silent.
            figures: reward, judge and exact of this very audio, as far as they were measured.

        Raises:
            ResourceError: the disk is full or the directory cannot be written.
        """
        file = f"i{iteration:04d}/{_file_stem(prompt_id)}.flac"
        _write_flac(self.directory / file, waveform, sample_rate_hz)
        self._index.append(asdict(Sample(iteration, prompt_id, prompt, duration_s, file, **figures)))
        return self.directory / file


def read_samples(directory: Path) -> list[Sample]:
    """The samples in ``directory`` by iteration and in the order of writing; of each prompt, the last one counts."""
    rows = [Sample(**row) for row in read_json_lines(directory / INDEX)]
    latest = {(sample.iteration, sample.prompt_id): sample for sample in rows}
    return sorted(latest.values(), key=lambda sample: sample.iteration)


def _write_flac(path: Path, waveform: npt.NDArray[np.float32], sample_rate_hz: int) -> None:
    audio = np.clip(np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)
    with atomic_write(path) as temporary:
        soundfile.write(temporary, audio.T, sample_rate_hz, format="FLAC", subtype="PCM_16")


def _file_stem(prompt_id: str) -> str:
    """The prompt's id where every file system takes it as a name, else a readable part of it and its hash."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", prompt_id):
        return prompt_id
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", prompt_id)[:40].strip("-")
    digest = hashlib.blake2b(prompt_id.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return f"{readable}-{digest}".lstrip("-")
