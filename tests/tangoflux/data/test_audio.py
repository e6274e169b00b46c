from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tangoflux.data.audio import AudioError, audio_duration_s, read_audio, read_excerpt
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
        ("empty.wav", "empty.wav contains no audio"),
    ):
        for read in (audio_duration_s, lambda file: read_audio(file, 1.0)):
            with pytest.raises(DataError, match=message):
                read(tmp_path / name)
    with pytest.raises(DataError, match=r"nan.wav contains samples that are not finite"):
        read_audio(tmp_path / "nan.wav", 1.0)
    with pytest.raises(DataError, match="cannot be read as audio"):
        audio_duration_s(tmp_path)


def test_an_excerpt_is_the_middle_of_the_part_asked_for(tmp_path: Path) -> None:
    ramp = (np.arange(4 * RATE) / (8 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    for part, begins, ends in (
        ((0.0, None, 9.0), 0.0, 4.0),
        ((0.0, None, 1.0), 1.5, 2.5),
        ((1.0, 2.0, 9.0), 1.0, 3.0),
        ((1.0, 2.0, 1.0), 1.5, 2.5),
        ((3.0, 1.1, 9.0), 3.0, 4.0),
        ((0.0, 5.0, 9.0), 0.0, 4.0),
        ((3.0, 1.9, 9.0), 3.0, 4.0),
        ((0.0, 7.0, 1.0), 1.5, 2.5),
    ):
        waveform, rate, start_s = read_excerpt(tmp_path / "a.wav", *part)
        assert (rate, start_s) == (RATE, begins)
        np.testing.assert_array_equal(waveform[0], ramp[round(begins * RATE) : round(ends * RATE)])


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_an_excerpt_is_read_through_a_uri(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, sine(3.0), RATE)
    here, there = (read_excerpt(place, 0.5, 2.0, 1.0) for place in (tmp_path / name, (tmp_path / name).as_uri()))
    np.testing.assert_array_equal(here[0], there[0])
    assert here[2] == there[2] == 1.0 and here[0].shape == (1, RATE)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_a_file_that_was_cut_off_is_truncated(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    soundfile.write(tmp_path / name, noise, RATE)
    assert read_excerpt(tmp_path / name, 0.0, None, 9.0)[0].shape[1] == pytest.approx(len(noise), abs=2400)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[: (tmp_path / name).stat().st_size // 2])
    with pytest.raises(AudioError, match=r"ends before its (header says|stream does)") as error:
        read_excerpt(tmp_path / name, 0.0, None, 9.0)
    assert error.value.reason == "truncated"


def test_what_makes_an_excerpt_unusable_has_a_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", sine(1.0), RATE)
    soundfile.write(tmp_path / "silent.wav", np.concatenate([sine(1.0), np.zeros(RATE)]), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.tile(np.array([0.0, np.nan], np.float32), RATE), RATE, subtype="FLOAT")
    for name, samples in (
        ("loud.wav", [20.0, -90.0]),
        ("integers.wav", [0.0, 32_767.0]),
        ("inf.wav", [np.inf, -np.inf]),
    ):
        soundfile.write(tmp_path / name, np.tile(np.array(samples, np.float32), RATE), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "sample.wav", np.ones(1), RATE)
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "nothing.wav").touch()
    for place, start_s, duration_s, reason in (
        (tmp_path / "short.wav", 0.0, 2.0, "too short"),
        (tmp_path / "short.wav", 0.9, 1.0, "too short"),
        (tmp_path / "short.wav", 1.5, None, "too short"),
        (tmp_path / "short.wav", 1e305, 1e305, "too short"),
        (tmp_path / "short.wav", 0.0, 1e305, "too short"),
        (tmp_path / "silent.wav", 1.0, None, "silent"),
        (tmp_path / "empty.wav", 0.0, None, "empty"),
        (tmp_path / "nothing.wav", 0.0, None, "empty"),
        (tmp_path / "nan.wav", 0.0, None, "not finite"),
        (tmp_path / "inf.wav", 0.0, None, "not finite"),
        (tmp_path / "integers.wav", 0.0, None, "not scaled"),
        (tmp_path / "sample.wav", 0.0, None, "too short"),
        (tmp_path / "short.wav", 0.0, 1e-6, "too short"),
        (tmp_path / "text.wav", 0.0, None, "unreadable"),
        (tmp_path / "absent.wav", 0.0, None, "missing"),
        ((tmp_path / "absent.wav").as_uri(), 0.0, None, "missing"),
        ("ftp://host/a.wav", 0.0, None, "unreadable"),
    ):
        with pytest.raises(AudioError) as error:
            read_excerpt(place, start_s, duration_s, 4.0)
        assert error.value.reason == reason, place
    assert read_excerpt(tmp_path / "loud.wav", 0.0, None, 4.0)[0].min() == -90
    assert read_excerpt(tmp_path / "silent.wav", 0.0, None, 4.0)[0].shape == (1, 2 * RATE)
