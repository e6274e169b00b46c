"""A reward for the sound world: do the detected events match the caption?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tangoflux.rewards.embedding import file_sha256, is_usable
from tangoflux.soundworld.activity import Segment, segments
from tangoflux.soundworld.aspects import ASPECTS, aspects
from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.detector import EventDetector

Measure = Literal["exact", "recall"]


class DetectorReward:
    """Detects the events in the waveform and compares them with the caption, aspect by aspect.

    Its score is one of the aspects, see ``tangoflux.soundworld.aspects``. NaN for a prompt that is not a sentence of
    the sound world, or a waveform that is not finite.
    """

    aspects: tuple[str, ...] = ASPECTS

    def __init__(self, directory: Path, name: str, measure: Measure = "exact") -> None:
        self.name = name
        self._detector = EventDetector.load(directory)
        self._measure = measure
        self.checkpoint = file_sha256(directory / "model.safetensors")[:16]

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Scores in [0, 1], (n,); see ``Reward``."""
        return np.array([row[self._measure] for row in self.grade(prompts, waveforms, sample_rate_hz)], np.float64)

    def grade(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> list[dict[str, float]]:
        """Every aspect of each waveform; see ``Grader``."""
        activity = self._detector.activity(waveforms, sample_rate_hz)
        return aspects_of(prompts, waveforms, [segments(row) for row in activity])


def aspects_of(
    prompts: Sequence[str],
    waveforms: Sequence[NDArray[np.float32]],
    heard: Sequence[Mapping[str, Sequence[Segment]]],
) -> list[dict[str, float]]:
    """Every aspect of n waveforms in which these units are heard; NaN where there is nothing to judge."""
    rows: list[dict[str, float]] = []
    for prompt, waveform, units in zip(prompts, waveforms, heard, strict=True):
        wanted = parse(prompt)
        known = aspects(wanted, units) if wanted is not None and is_usable(waveform) else None
        rows.append(known or dict.fromkeys(ASPECTS, np.nan))
    return rows
