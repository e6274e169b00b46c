from __future__ import annotations

import pytest

from tangoflux.data.audio import AudioError
from tests.tangoflux.data.made_audio import encoded, libsndfile_samples, noise, written

VORBIS = written("OGG")
OPUS = encoded("ogg", "libopus", noise(1.0, 48_000), 48_000, to_pipe=True)


@pytest.mark.parametrize(("made", "samples"), [(VORBIS, 16_000), (OPUS, 48_000)])
def test_a_whole_file_is_taken_and_a_cut_one_is_truncated(made: bytes, samples: int) -> None:
    assert libsndfile_samples(made) == samples
    for cut in (1, 100, len(made) // 2):
        with pytest.raises(AudioError) as error:
            libsndfile_samples(made[:-cut])
        assert error.value.reason == "truncated"


@pytest.mark.parametrize("made", [VORBIS + VORBIS, OPUS + OPUS, VORBIS + written("OGG", 2.0)])
def test_streams_one_after_another_are_refused_as_only_the_first_would_be_read(made: bytes) -> None:
    with pytest.raises(AudioError, match="streams follow each other in this Ogg file; convert it to one stream"):
        libsndfile_samples(made)


@pytest.mark.parametrize("behind", [b"TAG" + bytes(125), bytes(5000), b"x"])
@pytest.mark.parametrize(("made", "samples"), [(VORBIS, 16_000), (OPUS, 48_000)])
def test_what_follows_the_last_page_changes_nothing(made: bytes, samples: int, behind: bytes) -> None:
    assert libsndfile_samples(made + behind) == samples


@pytest.mark.parametrize("made", [VORBIS, OPUS])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_damaged_page_is_told_as_libsndfile_would_end_before_it(made: bytes, place: float) -> None:
    at = int(len(made) * place)
    with pytest.raises(AudioError, match=r"its Ogg page at byte [0-9]+ is damaged"):
        libsndfile_samples(made[:at] + bytes(30) + made[at + 30 :])
