"""A reward for the sound world that hears what is asked: the checks of a caption, by the grounder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tangoflux.rewards.detector import aspects_of
from tangoflux.rewards.embedding import file_sha256, is_usable
from tangoflux.soundworld.aspects import ASPECTS
from tangoflux.soundworld.captions import parse
from tangoflux.soundworld.grounder import Grounder, check_scores, heard_units, named_scores


class GrounderReward:
    """How likely a caption's checks hold, so that partly right beats wrong, and a missing sound weighs most.

    It is the mean of two: the mean probability of all checks, and that of those whether the named sounds are there.

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
        scores = np.full(len(prompts), np.nan)
        wanted = [(row, content) for row, prompt in enumerate(prompts) if (content := parse(prompt)) is not None]
        usable = [(row, content) for row, content in wanted if is_usable(waveforms[row])]
        if usable:
            grounding = self._grounder.ground([waveforms[row] for row, _ in usable], sample_rate_hz)
            for index, (row, content) in enumerate(usable):
                every, named = (scores_of(content, grounding, index) for scores_of in (check_scores, named_scores))
                scores[row] = (np.mean(every) + np.mean(named)) / 2
        return scores

    def grade(
        self, prompts: Sequence[str], waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int
    ) -> list[dict[str, float]]:
        """Every aspect of each waveform; see ``Grader``."""
        if not waveforms:
            return []
        grounding = self._grounder.ground(waveforms, sample_rate_hz)
        return aspects_of(prompts, waveforms, [heard_units(grounding, row) for row in range(len(waveforms))])
