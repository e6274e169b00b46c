"""Made-up audio files of every kind, against FFmpeg: what it decodes is read whole, what is cut off is told."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tangoflux.data.audio import AudioError, audio_duration_s, read_audio, read_excerpt
from tests.tangoflux.data.made_audio import (
    UNKNOWN,
    encoded,
    ffmpeg_samples,
    libsndfile_samples,
    mp3,
    noise,
    wav,
    written,
)

KINDS = {
    "wav": ("wav", ("pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_mulaw"), (8_000, 11_025, 44_100, 96_000)),
    "flac": ("flac", ("flac",), (8_000, 22_050, 48_000, 96_000)),
    "mp3": ("mp3", ("libmp3lame",), (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000)),
    "opus": ("ogg", ("libopus",), (48_000,)),
    "vorbis": ("OGG", (), (8_000, 22_050, 44_100)),
}
SLACK = {"mp3": 2 * 1152 + 529, "vorbis": 1024}
"""Decoders differ in what they leave out at the ends of MP3, and of the last block of Vorbis."""


def made_up(kind: str, seed: int) -> tuple[bytes, bool]:
    """A file of random size and settings, and whether its header says how long it is."""
    choose = random.Random(f"{kind}/{seed}")
    format, codecs, rates = KINDS[kind]
    rate, to_pipe = choose.choice(rates), choose.random() < 0.5
    channels, seconds = choose.choice((1, 2)), choose.choice((0.2, 0.5, 1.0, 2.5))
    if kind == "vorbis":
        return written(format, seconds, rate, channels), True
    container: dict[str, str] = {}
    encoder: dict[str, str] = {}
    if kind == "mp3":
        container = {"write_xing": choose.choice("01"), "id3v2_version": choose.choice("034")}
        container["write_id3v1"] = choose.choice("01")
        quality = {"flags": "+qscale", "global_quality": str(118 * choose.randint(0, 9))}
        encoder = choose.choice((quality, {"b": choose.choice(("64000", "32000"))}))
    waveform = noise(seconds, rate, channels, seed)
    made = encoded(format, choose.choice(codecs), waveform, rate, to_pipe=to_pipe, container=container, encoder=encoder)
    return made, not (kind == "wav" and to_pipe)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read_whole_and_cut_ones_are_told(kind: str, seed: int) -> None:
    made, has_length = made_up(kind, seed)
    assert libsndfile_samples(made) == pytest.approx(ffmpeg_samples(made), abs=SLACK.get(kind, 0))
    choose = random.Random(seed)
    for cut in (1, choose.randrange(2, 200), choose.randrange(len(made) // 3, len(made) * 2 // 3)):
        if has_length:
            with pytest.raises(AudioError) as error:
                libsndfile_samples(made[:-cut])
            assert error.value.reason in ("truncated", "unreadable")


@pytest.mark.parametrize("format", ["AIFF", "AU", "CAF", "VOC", "W64", "RF64"])
@pytest.mark.parametrize("cut", [100, 16_000])
def test_other_formats_of_libsndfile_are_told_too_if_they_are_cut(format: str, cut: int) -> None:
    made = written(format)
    assert libsndfile_samples(made) == 16_000
    with pytest.raises(AudioError, match=r"ends before its header says|file is malformed"):
        libsndfile_samples(made[:-cut])


TAGGED = {
    "wav": wav(samples=16_000),
    "wav from a pipe": wav(UNKNOWN, UNKNOWN, samples=16_000),
    "flac": written("FLAC"),
    "flac of ffmpeg": encoded("flac", "flac", noise(1.0, 16_000), 16_000),
    "flac from a pipe": encoded("flac", "flac", noise(1.0, 16_000), 16_000, to_pipe=True),
    "ogg": written("OGG"),
    "mp3": mp3(1.0),
    "mp3 without xing": mp3(1.0, xing=False),
}
TAG = b"ID3\4\0\0\0\0\1\2" + b"\xff\xfb\x90\0" * 32 + b"\0\0"
TAG_WITH_FOOTER = b"ID3\4\0\x10" + TAG[6:] + b"3DI\4\0\x10\0\0\1\2"


@pytest.mark.parametrize("tags", [TAG, TAG_WITH_FOOTER, TAG + TAG], ids=["tag", "footer", "two"])
@pytest.mark.parametrize("made", TAGGED.values(), ids=TAGGED)
def test_tags_in_front_of_a_file_of_any_kind_do_not_count(tmp_path: Path, made: bytes, tags: bytes) -> None:
    (tmp_path / "a").write_bytes(tags + made)
    bare, *_ = read_excerpt("bare", 0.0, None, 30.0, made)
    assert bare.shape[1] >= 16_000
    for content in (None, tags + made):
        assert np.array_equal(read_excerpt(tmp_path / "a", 0.0, None, 30.0, content)[0], bare)


@pytest.mark.parametrize("kind", ["wav", "flac", "flac of ffmpeg", "ogg", "mp3"])
def test_files_with_tags_in_front_are_told_too_if_they_are_cut(kind: str) -> None:
    with pytest.raises(AudioError) as error:
        libsndfile_samples((TAG + TAGGED[kind])[:-500])
    assert error.value.reason == "truncated"


@pytest.mark.parametrize(
    ("format", "coding"), [("WAV", "GSM610"), ("WAV", "G721_32"), ("WAV", "NMS_ADPCM_16"), ("AU", "G723_24")]
)
def test_a_part_of_a_file_whose_coding_cannot_be_seeked_is_read(format: str, coding: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(1.0, 8_000).T, 8_000, format=format, subtype=coding)
    whole, *_ = read_excerpt("whole", 0.0, None, 30.0, file.getvalue())
    part, _, start_s = read_excerpt("part", 0.6, 0.3, 30.0, file.getvalue())
    assert start_s == 0.6
    assert np.array_equal(part, whole[:, 4800:7200])


@pytest.mark.parametrize("name", ["a.raw", "a.vox", "a.gsm", "a.au", "a.mp3", "a.sd2", "a.paf", "a.wav", "a"])
def test_a_name_neither_makes_audio_of_other_data_nor_hides_audio(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"this is no audio " * 20)
    for read in (audio_duration_s, lambda file: read_audio(file, 1.0), lambda file: read_excerpt(file, 0, None, 1.0)):
        with pytest.raises(AudioError, match=f"{name} cannot be read as audio: Format not recognised") as error:
            read(file)
        assert error.value.reason == "unreadable"
    file.write_bytes(wav())
    assert read_audio(file, 1.0)[0].shape == (1, 1000)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (wav(rate=0), "unreadable"),
        (wav(rate=1), "extreme rate"),
        (wav(rate=999), "extreme rate"),
        (wav(rate=2_000_000_000), "extreme rate"),
        (wav(rate=4_000_000_000), "unreadable"),
        (wav(channels=0), "unreadable"),
        (wav(channels=30_000), "unreadable"),
        (b"RIFF" + bytes(100), "unreadable"),
        (b"fLaC" + bytes(100), "truncated"),
        (b"OggS" + bytes(100), "truncated"),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100), "unreadable"),
        (b"\xff\xfb\x90\0" * 200, "unreadable"),
    ],
)
def test_a_header_that_cannot_be_true_is_the_files_error(made: bytes, reason: str) -> None:
    with pytest.raises(AudioError) as error:
        libsndfile_samples(made)
    assert error.value.reason == reason


@pytest.mark.parametrize("format", ["WAV", "RF64", "FLAC", "MP3", "OGG", "AIFF", "W64", "CAF"])
def test_a_damaged_file_is_read_or_refused_and_raises_nothing_else(tmp_path: Path, format: str) -> None:
    whole, choose = written(format), random.Random(format)
    for _ in range(50):
        made = bytearray(whole)
        for _ in range(choose.randint(1, 5)):
            made[choose.randrange(min(len(made), choose.choice((60, 200, len(made)))))] = choose.choice((0, 127, 255))
        (tmp_path / "a").write_bytes(made[: choose.randint(1, len(made))] if choose.random() < 0.3 else made)
        for location in (tmp_path / "a", (tmp_path / "a").as_uri()):
            try:
                waveform, rate, _ = read_excerpt(location, 0.0, None, 30.0)
            except AudioError:
                continue
            assert 1_000 <= rate <= 1_000_000 and 0 < waveform.shape[1] <= 30 * rate


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    subprocess.run(["mkfifo", tmp_path / "a.wav"], check=True)
    with pytest.raises(AudioError, match="it is not a file"):
        audio_duration_s(tmp_path / "a.wav")


MEASURE = """
import sys, torch
from pathlib import Path
from tangoflux.data.audio import AudioError, read_excerpt
from tangoflux.data.waveforms import fill_frames, resample
from tangoflux.model.autoencoder import AutoencoderConfig

def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

resample(torch.zeros(1, 100), 16_000, 44_100)
codec = AutoencoderConfig(downsampling_ratios=(4, 4), audio_channels=2, sampling_rate=44_100)
before = peak_kb()
for name in sys.argv[1:]:
    try:
        waveform, rate, _ = read_excerpt(name, 0.0, None, 30.0)
    except AudioError as error:
        print(error.reason)
    else:
        print(*fill_frames(waveform, rate, codec, 30.0, 82_687).shape)
print(peak_kb() - before)
"""


def test_no_small_file_takes_more_than_500_mb(tmp_path: Path) -> None:
    """Decoding and resampling, beyond what the libraries take."""
    flac = {"wide": (655_350, 8, 31.0), "most": (500_000, 2, 33.0), "fast": (655_350, 1, 31.0)}
    for name, (rate, channels, seconds) in flac.items():
        block = noise(1.0, rate, channels).T
        with soundfile.SoundFile(tmp_path / name, "w", rate, channels, format="FLAC", subtype="PCM_16") as file:
            for _ in range(round(seconds)):
                file.write(block * 0 + 0.25)
    for rate in (1_000, 11_127, 44_099, 47_999, 999_983):
        (tmp_path / str(rate)).write_bytes(wav(rate=rate, samples=30_000))
    files = sorted(tmp_path.iterdir())
    assert all(file.stat().st_size < 1e6 for file in files)
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    *results, kb = done.stdout.splitlines()
    refused = {"wide": "extreme size"}
    assert results == [refused.get(file.name, "2 1322992") for file in files]
    assert int(kb) < 500_000
