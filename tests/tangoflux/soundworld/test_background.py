from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tangoflux.soundworld.background import add_background


def tone(seconds: float = 2.0, silent_from: float = 1.0) -> NDArray[np.float32]:
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (0.5 * np.sin(2 * np.pi * 440 * time) * (time < silent_from)).astype(np.float32)


def test_without_a_share_the_waveform_stays_as_it_is() -> None:
    waveform = tone()
    assert add_background(waveform, np.random.default_rng(0), 0.0) is waveform


@pytest.mark.parametrize("seed", range(6))
def test_a_background_lies_behind_the_whole_recording_and_is_quieter(seed: int) -> None:
    waveform = tone()
    mixed = add_background(waveform, np.random.default_rng(seed), 1.0)
    behind = mixed - waveform
    assert mixed.shape == waveform.shape and mixed.dtype == np.float32 and np.abs(mixed).max() <= 0.97
    assert 0.08 < np.abs(behind).max() / np.abs(waveform).max() < 0.31
    quarters = [float(np.sqrt(np.mean(part**2))) for part in np.split(behind, 4)]
    assert min(quarters) > 0.2 * max(quarters)


def test_the_share_is_that_of_recordings_with_a_background() -> None:
    rng = np.random.default_rng(0)
    with_one = sum(add_background(waveform, rng, 0.5) is not waveform for waveform in [tone(0.5)] * 200)
    assert 70 < with_one < 130
