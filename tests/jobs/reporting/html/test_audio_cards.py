from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actors.storage.samples import read_samples
from jobs.reporting.html.audio_cards import audio_cards


def test_sounds_that_do_not_fit_are_first_fewer_and_then_smaller(make_run: Callable[..., Path]) -> None:
    folder = make_run(prompts=2) / "samples"
    samples = read_samples(folder)
    size = sum((folder / sample.file).stat().st_size for sample in samples)

    def sounds(budget: int) -> list[tuple[int, str]]:
        cards, _ = audio_cards(folder, samples, budget)
        return [(clip.sample.iteration, clip.audio[5:15]) for clip in [cards[0].before, *cards[0].after] if clip]

    assert sounds(size) == [(k, "audio/flac") for k in range(4)]
    assert sounds(size - 1) == [(0, "audio/flac"), (3, "audio/flac")]
    assert sounds(1000) == [(0, "audio/mpeg"), (3, "audio/mpeg")]
