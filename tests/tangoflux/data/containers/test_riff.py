from __future__ import annotations

import struct

import pytest

from tangoflux.data.audio import AudioError
from tests.tangoflux.data.made_audio import UNKNOWN, chunk, encoded, libsndfile_samples, noise, wav


def ds64(riff: int, data: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", riff, data, 0, 0))


INFO = chunk(b"LIST", b"INFO")

FROM_PIPES = {
    "ffmpeg": wav(UNKNOWN, UNKNOWN, before=INFO),
    "gstreamer": wav(0, 0),
    "header alone": wav(0, 36),
    "sox": wav(0x7FFF_F000, 0x7FFF_F024),
    "arecord": wav(0x8000_0000, 0x8000_0024),
    "lame": wav(UNKNOWN - 44, UNKNOWN - 8),
    "big-endian": wav(UNKNOWN, UNKNOWN, magic=b"RIFX"),
    "rf64 of zeros": wav(UNKNOWN, UNKNOWN, before=ds64(0, 0), magic=b"RF64"),
    "rf64 of ones": wav(UNKNOWN, UNKNOWN, before=ds64(2**64 - 1, 2**64 - 1), magic=b"RF64"),
    "large chunk before": wav(UNKNOWN, UNKNOWN, before=chunk(b"bext", bytes(2**20))),
    "ffmpeg's rf64": encoded("wav", "pcm_s16le", noise(1.0, 1000), 1000, to_pipe=True, container={"rf64": "always"}),
}


@pytest.mark.parametrize("made", FROM_PIPES.values(), ids=FROM_PIPES)
def test_what_was_written_into_a_pipe_is_as_long_as_it_is(made: bytes) -> None:
    assert libsndfile_samples(made) == 1000
    assert libsndfile_samples(made[:-500]) == 750, "nobody can know that it was longer"


WHOLE = {
    "plain": wav(),
    "chunk behind": wav(behind=INFO),
    "bytes behind": wav() + b"and more",
    "wrong riff size": wav(riff=5),
    "large riff size": wav(riff=100_000),
    "rf64": wav(UNKNOWN, UNKNOWN, before=ds64(2080, 2000), magic=b"RF64"),
    "no bytes per second": wav(rate=44_100),
}


@pytest.mark.parametrize("made", WHOLE.values(), ids=WHOLE)
def test_a_whole_file_is_taken_whatever_is_around_the_audio(made: bytes) -> None:
    assert libsndfile_samples(made) == 1000


CUT = {
    "half": wav()[:1000],
    "a sample": wav()[:-2],
    "a byte": wav()[:-1],
    "big-endian": wav(magic=b"RIFX")[:-10],
    "rf64": wav(UNKNOWN, UNKNOWN, before=ds64(2080, 2000), magic=b"RF64")[:-10],
    "riff size 0": wav(riff=0)[:-10],
}


@pytest.mark.parametrize("made", CUT.values(), ids=CUT)
def test_a_file_with_less_than_its_header_says_is_truncated(made: bytes) -> None:
    with pytest.raises(AudioError, match="ends before its header says") as error:
        libsndfile_samples(made)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("made", [wav(samples=0), wav(samples=0, behind=INFO), wav(samples=0, riff=0)])
def test_a_file_without_samples_is_empty(made: bytes) -> None:
    with pytest.raises(AudioError, match="contains no audio"):
        libsndfile_samples(made)
