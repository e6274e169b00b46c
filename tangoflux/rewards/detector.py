"""A reward for the sound world: do the detected events match the caption?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tangoflux.rewards.embedding import file_sha256, is_usable
from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.detector import EventDetector
from tangoflux.soundworld.scenes import SceneContent

Measure = Literal["exact", "recall"]


class DetectorReward:
    """Detects the events in the waveform and compares them with the caption.

    exact: 1 if kinds, counts, order and overlap are all right, else 0. recall: the share of the caption's kinds that
    are detected. NaN for a prompt that is not a sentence of the sound world, or a waveform that is not finite.
    """

    def __init__(self, directory: Path, name: str, measure: Measure = "exact") -> None:
        self.name = name
        self._detector = EventDetector.load(directory)
        self._measure: Callable[[SceneContent, SceneContent], float] = MEASURES[measure]
        self.checkpoint = file_sha256(directory / "model.safetensors")[:16]

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Scores in [0, 1], (n,); see ``Reward``."""
        wanted = [parse(prompt) for prompt in prompts]
        heard = self._detector.detect(waveforms, sample_rate_hz)
        scores = np.full(len(wanted), np.nan)
        for row, content in enumerate(wanted):
            if content is not None and is_usable(waveforms[row]):
                scores[row] = self._measure(content, heard[row])
        return scores


def _exact(wanted: SceneContent, heard: SceneContent) -> float:
    return float(wanted == heard)


def _recall(wanted: SceneContent, heard: SceneContent) -> float:
    return len(set(wanted.kinds) & set(heard.kinds)) / len(set(wanted.kinds))


MEASURES: dict[Measure, Callable[[SceneContent, SceneContent], float]] = {"exact": _exact, "recall": _recall}
