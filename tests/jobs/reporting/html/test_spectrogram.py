from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jobs.reporting.html.spectrogram import spectrogram_png


def test_a_tone_is_brightest_at_its_pitch_and_its_time() -> None:
    rate = 16000
    time = np.arange(2 * rate) / rate
    waveform = (0.5 * np.sin(2 * np.pi * 1000 * time) * (time > 1)).astype(np.float32)
    pixels = _pixels(spectrogram_png(waveform, rate, 8000))
    row, _ = np.unravel_index(pixels[:, 160:].argmax(), (96, 128))
    mel = np.log10(1 + 1000 / 700) / np.log10(1 + 8000 / 700)
    assert abs((95.5 - row) / 96 - mel) < 0.03
    assert pixels[:, :130].max() == 0


@pytest.mark.parametrize(("level_db", "expected"), [(0, 255), (-46, 128), (-90, 0)])
def test_the_brightness_of_a_tone_is_its_level(level_db: float, expected: int) -> None:
    time = np.arange(16000) / 16000
    waveform = (10 ** (level_db / 20) * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)
    assert abs(int(_pixels(spectrogram_png(waveform, 16000, 8000)).max()) - expected) <= 8


@pytest.mark.parametrize("samples", [0, 1, 50])
def test_a_sound_of_hardly_any_length_has_a_picture(samples: int) -> None:
    assert _pixels(spectrogram_png(np.ones(samples, np.float32), 16000, 8000)).shape == (96, 288)


def _pixels(png: bytes) -> NDArray[np.uint8]:
    """(height, width) indices into the palette, whose first colour is the darkest."""
    return np.asarray(Image.open(io.BytesIO(png)))
