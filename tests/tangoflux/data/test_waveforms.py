from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
from numpy.typing import NDArray

from tangoflux.data.waveforms import fill_frames, fit_waveform, resample
from tangoflux.model.autoencoder import AutoencoderConfig

RATE = 16_000


def sine(seconds: float, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_a_waveform_that_fits_is_left_as_it_is() -> None:
    stereo = np.stack((sine(0.1), sine(0.1, hz=880)))
    np.testing.assert_array_equal(fit_waveform(stereo, RATE, RATE, 2, 1600).numpy(), stereo)


def test_channels_are_averaged_or_repeated() -> None:
    stereo = np.stack((sine(0.1), -sine(0.1)))
    assert fit_waveform(stereo, RATE, RATE, 1, 1600).abs().max() < 1e-6
    mono = fit_waveform(sine(0.1)[None], RATE, RATE, 2, 1600).numpy()
    np.testing.assert_array_equal(mono, np.stack((sine(0.1), sine(0.1))))
    assert fit_waveform(np.ones((6, 8), np.float32), RATE, RATE, 2, 8).shape == (2, 8)


def test_audio_is_cut_or_followed_by_silence() -> None:
    np.testing.assert_array_equal(fit_waveform(sine(1.0)[None], RATE, RATE, 1, 100).numpy()[0], sine(1.0)[:100])
    longer = fit_waveform(sine(0.1)[None], RATE, RATE, 1, 2000).numpy()[0]
    np.testing.assert_array_equal(longer, np.pad(sine(0.1), (0, 400)))


def test_a_tone_keeps_its_pitch_at_another_rate() -> None:
    fitted = fit_waveform(sine(1.0, 44_100)[None], 44_100, RATE, 1, RATE).numpy()[0]
    np.testing.assert_allclose(fitted[1000:15000], sine(1.0)[1000:15000], atol=5e-3)


def test_frames_are_filled_with_what_is_heard_and_then_with_silence() -> None:
    codec = AutoencoderConfig(downsampling_ratios=(4, 4), audio_channels=2, sampling_rate=RATE)
    audio = fill_frames(sine(0.5)[None], RATE, codec, 0.25, 300).numpy()
    assert audio.shape == (2, 300 * 16)
    np.testing.assert_array_equal(audio[1], np.pad(sine(0.25), (0, 300 * 16 - RATE // 4)))
    assert fill_frames(sine(0.5)[None], RATE, codec, 0.5, 3).shape == (2, 48)


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("to_rate", [16_000, 44_100, 48_000])
def test_usual_rates_are_resampled_by_torchaudio(rate: int, to_rate: int) -> None:
    waveform = torch.from_numpy(sine(0.1, rate))[None]
    assert torch.equal(resample(waveform, rate, to_rate), AF.resample(waveform, rate, to_rate))


@pytest.mark.parametrize("rate", [11_127, 44_099, 47_999, 99_991])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_tone_keeps_its_pitch_from_rates_with_no_common_divisor(rate: int, channels: int) -> None:
    waveform = torch.from_numpy(np.stack([sine(1.0, rate), -sine(1.0, rate)][:channels]))
    resampled = resample(waveform, rate, 44_100).numpy()
    assert resampled.shape == (channels, 44_100)
    np.testing.assert_allclose(resampled[0, 1000:-1000], sine(1.0, 44_100)[1000:-1000], atol=1e-4)
