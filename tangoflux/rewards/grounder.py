"""A reward for the sound world that hears what is asked: the checks of a caption, by the grounder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tangoflux.rewards.embedding import file_sha256, is_usable
from tangoflux.soundworld.aspects import ASPECTS, aspects
from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.grounder import Grounder, check_scores, heard_units


class GrounderReward:
    """The mean probability of a caption's checks, so that partly right beats wrong.

    NaN for a prompt that is not a sentence of the sound world, or a waveform that is not finite.
    """

    aspects: tuple[str, ...] = ASPECTS

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._grounder = Grounder.load(directory)
        self.checkpoint = file_sha256(directory / "model.safetensors")[:16]

    def __call__(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> NDArray[np.float64]:
        """Scores in [0, 1], (n,); see ``Reward``."""
        scores, wanted = np.full(len(prompts), np.nan), [parse(prompt) for prompt in prompts]
        usable = [row for row, content in enumerate(wanted) if content is not None and is_usable(waveforms[row])]
        grounding = self._grounder.ground([waveforms[row] for row in usable], sample_rate_hz) if usable else None
        for index, row in enumerate(usable):
            content = wanted[row]
            if content is not None and grounding is not None:
                scores[row] = np.mean(check_scores(content, grounding, index))
        return scores

    def grade(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> list[dict[str, float]]:
        """Every aspect of each waveform; see ``Grader``."""
        grounding = self._grounder.ground(waveforms, sample_rate_hz)
        rows: list[dict[str, float]] = []
        for row, (prompt, waveform) in enumerate(zip(prompts, waveforms, strict=True)):
            wanted = parse(prompt)
            known = aspects(wanted, heard_units(grounding, row)) if wanted and is_usable(waveform) else None
            rows.append(known or dict.fromkeys(ASPECTS, np.nan))
        return rows
