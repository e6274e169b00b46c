from __future__ import annotations

import pytest

from tangoflux.data.audio import AudioError
from tests.tangoflux.data.made_audio import encoded, libsndfile_samples, noise, written


def without_total(flac: bytes) -> bytes:
    """As an encoder leaves it that writes into a pipe."""
    return flac[:21] + bytes((flac[21] & 0xF0,)) + bytes(4) + flac[26:]


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("rate", "seconds"), [(8_000, 0.01), (44_100, 0.7), (48_000, 0.1), (96_000, 0.5), (12_345, 2.0)]
)
def test_a_file_that_does_not_say_how_long_it_is_is_read_whole(rate: int, seconds: float, channels: int) -> None:
    made = written("FLAC", seconds, rate, channels)
    assert libsndfile_samples(without_total(made)) == libsndfile_samples(made) == round(seconds * rate)


@pytest.mark.parametrize("seconds", [0.3, 30.0])
def test_what_ffmpeg_writes_into_a_pipe_is_read_whole(seconds: float) -> None:
    made = encoded("flac", "flac", noise(seconds, 8_000), 8_000, to_pipe=True)
    assert made == without_total(made) and libsndfile_samples(made) == seconds * 8_000


@pytest.mark.parametrize("cut", [1, 2, 100, 3_000, 10_000])
@pytest.mark.parametrize("has_total", [True, False])
def test_a_file_that_was_cut_off_is_truncated(cut: int, has_total: bool) -> None:
    made = written("FLAC")
    with pytest.raises(AudioError) as error:
        libsndfile_samples((made if has_total else without_total(made))[:-cut])
    assert error.value.reason == "truncated"
