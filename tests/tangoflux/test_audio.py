from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tangoflux.audio import audio_duration_s, fit_waveform, read_audio
from tangoflux.errors import DataError

RATE = 16_000


def sine(seconds: float, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_formats_of_libsndfile_are_read(tmp_path: Path, name: str) -> None:
    stereo = np.stack((sine(0.5), np.zeros(RATE // 2, np.float32)), axis=1)
    soundfile.write(tmp_path / name, stereo, RATE)
    waveform, rate = read_audio(tmp_path / name, 4.0)
    assert rate == RATE and waveform.dtype == np.float32 and waveform.shape[0] == 2
    assert waveform.shape[1] / rate == pytest.approx(0.5, abs=0.1)
    assert audio_duration_s(tmp_path / name) == pytest.approx(0.5, abs=0.1)
    assert np.sqrt(np.mean(waveform[0] ** 2)) == pytest.approx(0.35, abs=0.08)


def test_only_the_beginning_of_a_long_file_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(3.0), RATE, subtype="FLOAT")
    waveform, _ = read_audio(tmp_path / "a.wav", 1.0)
    np.testing.assert_array_equal(waveform[0], sine(1.0))


def test_a_file_without_usable_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "nothing.flac").touch()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), RATE, subtype="FLOAT")
    for name, message in (
        ("absent.wav", "absent.wav cannot be read as audio: there is no such file"),
        ("text.wav", "text.wav cannot be read as audio: "),
        ("nothing.flac", "nothing.flac cannot be read as audio: "),
        ("empty.wav", "empty.wav holds no audio"),
    ):
        for read in (audio_duration_s, lambda file: read_audio(file, 1.0)):
            with pytest.raises(DataError, match=message):
                read(tmp_path / name)
    with pytest.raises(DataError, match=r"nan.wav holds samples that are not finite"):
        read_audio(tmp_path / "nan.wav", 1.0)
    with pytest.raises(DataError, match="cannot be read as audio"):
        audio_duration_s(tmp_path)


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
