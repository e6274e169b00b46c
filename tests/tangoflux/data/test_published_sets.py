from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tangoflux.data.published_sets import load_manifest
from tangoflux.errors import ConfigError, DataError

AUDIOCAPS = """\
audiocap_id,youtube_id,start_time,caption
91139,-Zn4ViKWcw,130,A woman talks nearby as water pours
91140,-Zn4ViKWcw,130,"Water pours, a woman speaks"
58146,abc,0,Food sizzles
"""


@pytest.fixture
def audiocaps(tmp_path: Path) -> Path:
    (tmp_path / "test.csv").write_text(AUDIOCAPS)
    (tmp_path / "audio").mkdir()
    return tmp_path / "test.csv"


def test_audiocaps_rows_may_be_in_parquet(audiocaps: Path) -> None:
    rows = csv.DictReader(audiocaps.open())
    pq.write_table(pa.Table.from_pylist([*rows]), audiocaps.with_suffix(".parquet"))
    found, expected = (
        load_manifest(file, str(audiocaps.parent / "audio"))[0].captions
        for file in (audiocaps.with_suffix(".parquet"), audiocaps)
    )
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        "Y-Zn4ViKWcw.wav",
        "-Zn4ViKWcw.mp3",
        "-Zn4ViKWcw_130.wav",
        "Y-Zn4ViKWcw_130.000_140.000.wav",
        "-Zn4ViKWcw_130000_140000.flac",
        "91140.wav",
        "test/91139.ogg",
    ],
)
def test_audiocaps_files_are_found_under_any_usual_name(audiocaps: Path, name: str) -> None:
    file = audiocaps.parent / "audio" / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    clip, missing = load_manifest(audiocaps, str(audiocaps.parent / "audio"))
    assert (clip.id, clip.source, clip.location) == ("-Zn4ViKWcw_130", name, str(file))
    assert clip.captions == ("A woman talks nearby as water pours", "Water pours, a woman speaks")
    assert (clip.start_s, clip.duration_s) == (0.0, None), "the file is the clip already"
    assert (missing.id, missing.source) == ("abc_0", "Yabc.wav")


def test_two_files_that_may_be_the_same_clip_are_named(audiocaps: Path) -> None:
    for folder in ("train", "test"):
        (audiocaps.parent / "audio" / folder).mkdir()
        (audiocaps.parent / "audio" / folder / "Yabc.wav").touch()
    with pytest.raises(DataError, match=r"has test/Yabc.wav and train/Yabc.wav, which may both be Yabc"):
        load_manifest(audiocaps, str(audiocaps.parent / "audio"))


def test_wavcaps_clips_are_found_by_their_ids(tmp_path: Path) -> None:
    rows = [
        {"id": "Y-abc.wav", "caption": "An engine runs.", "audio": "wav_path", "duration": 10.0},
        {"id": 2219, "caption": "A bell.", "audio": "wav_path", "duration": 14.14, "title": "Bell", "author": "x"},
    ]
    (tmp_path / "as_final.json").write_text(json.dumps({"num_captions_per_audio": 1, "data": rows}))
    (tmp_path / "AudioSet_SL").mkdir()
    (tmp_path / "AudioSet_SL" / "Y-abc.flac").touch()
    found, missing = load_manifest(tmp_path / "as_final.json")
    assert (found.id, found.source, found.duration_s) == ("Y-abc.wav", "AudioSet_SL/Y-abc.flac", 10.0)
    assert found.captions == ("An engine runs.",)
    assert (missing.id, missing.location) == ("2219", str(tmp_path / "2219.wav"))


def test_a_format_can_be_named_and_must_fit(audiocaps: Path) -> None:
    with pytest.raises(DataError, match=r"has the columns audiocap_id, .*; expected audio and caption or captions$"):
        load_manifest(audiocaps, format="manifest")
    with pytest.raises(DataError, match=r"expected audio and caption or captions or id and caption \(wavcaps\)"):
        (audiocaps.parent / "w.json").write_text('{"data": [{"name": 1}]}')
        load_manifest(audiocaps.parent / "w.json")


def test_an_audio_directory_that_is_not_there_is_refused(audiocaps: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be listed"):
        load_manifest(audiocaps, str(audiocaps.parent / "nowhere"))


def test_audio_is_found_through_a_uri(audiocaps: Path) -> None:
    (audiocaps.parent / "audio" / "Yabc.wav").touch()
    clip = load_manifest(audiocaps, (audiocaps.parent / "audio").as_uri())[1]
    assert clip.location == (audiocaps.parent / "audio" / "Yabc.wav").as_uri()
