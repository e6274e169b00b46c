from __future__ import annotations

import io
import struct

import pytest
import soundfile

from tangoflux.data.audio import AudioError
from tests.tangoflux.data.made_audio import ffmpeg_samples, libsndfile_samples, mp3

VARIABLE = mp3(3.0, xing=False)
WITH_XING = mp3(3.0)
FRAMES = WITH_XING.index(b"Xing") + 8
SLACK = 1152 + 529
"""A frame, and the decoder's delay, which some decoders leave out."""


def with_frames(change: int) -> bytes:
    """With a wrong number of frames in the header."""
    (frames,) = struct.unpack_from(">I", WITH_XING, FRAMES)
    return WITH_XING[:FRAMES] + struct.pack(">I", frames + change) + WITH_XING[FRAMES + 4 :]


def id3(size: int) -> bytes:
    sizes = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + sizes + b"\xff\xfb\x90\0" * (size // 4)


WHOLE = {
    "without xing": VARIABLE,
    "with xing": WITH_XING,
    "low rate": mp3(3.0, 16_000, xing=False),
    "lower rate": mp3(3.0, 8_000, xing=False),
    "too many frames": with_frames(100),
    "one too many": with_frames(1),
    "too few frames": with_frames(-50),
    "large id3": id3(40_000) + VARIABLE,
    "two id3": id3(400) + id3(4000) + WITH_XING,
    "id3v1": VARIABLE + b"TAG" + bytes(125),
    "ape": WITH_XING + b"APETAGEX" + bytes(100),
    "zeros before": bytes(3000) + WITH_XING,
}


@pytest.mark.parametrize("made", WHOLE.values(), ids=WHOLE)
def test_a_whole_file_is_read_to_its_end(made: bytes) -> None:
    assert libsndfile_samples(made) == pytest.approx(ffmpeg_samples(made), abs=SLACK)


def test_libsndfile_alone_takes_the_first_frames_bit_rate_for_all() -> None:
    assert soundfile.SoundFile(io.BytesIO(VARIABLE)).frames > 1.5 * ffmpeg_samples(VARIABLE)


def test_zeros_behind_the_last_frame_change_nothing() -> None:
    assert libsndfile_samples(VARIABLE + bytes(5000)) == libsndfile_samples(VARIABLE)


def test_joined_files_are_read_to_the_end_of_the_last() -> None:
    twice = 2 * ffmpeg_samples(VARIABLE)
    for made in (VARIABLE + VARIABLE, VARIABLE + id3(400) + VARIABLE, WITH_XING + WITH_XING):
        assert libsndfile_samples(made) == pytest.approx(twice, abs=4 * SLACK)


@pytest.mark.parametrize("made", [VARIABLE, WITH_XING, mp3(0.1, xing=False), mp3(0.1)])
@pytest.mark.parametrize("kept", [0.999, 0.8, 0.4])
def test_a_file_that_was_cut_off_is_truncated(made: bytes, kept: float) -> None:
    with pytest.raises(AudioError, match="ends before its header says") as error:
        libsndfile_samples(made[: int(len(made) * kept)])
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("other", [mp3(1.0, 8_000), mp3(1.0, 22_050, xing=False), mp3(1.0, 48_000)])
@pytest.mark.parametrize("made", [VARIABLE, WITH_XING])
def test_joined_files_of_different_rates_are_refused_as_only_the_first_would_be_read(made: bytes, other: bytes) -> None:
    with pytest.raises(AudioError, match="its sample rate changes within the file; convert it to one rate"):
        libsndfile_samples(made + other)
