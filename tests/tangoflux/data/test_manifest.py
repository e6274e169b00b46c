from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tangoflux.data.manifest import MAX_CAPTION_CHARS, Clip
from tangoflux.data.published_sets import load_manifest
from tangoflux.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"audio": "a.wav", "caption": "a dog barks"},
    {"audio": "sub/b.flac", "caption": " a bell, twice ", "start": 1.5, "duration": 2, "id": "bell"},
]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in ROWS[1]} for row in rows]), file)
    else:
        file.write_text(
            'audio,caption,start,duration,id\na.wav,a dog barks,,,\nsub/b.flac," a bell, twice ",1.5,2,bell\n'
        )
    return file


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
def test_a_table_of_any_kind_gives_the_same_clips(tmp_path: Path, name: str) -> None:
    first, second = load_manifest(write(tmp_path / name, ROWS))
    assert first == Clip("c0000001", "a.wav", str(tmp_path / "a.wav"), ("a dog barks",), 0.0, None)
    assert second == Clip("bell", "sub/b.flac", str(tmp_path / "sub/b.flac"), ("a bell, twice",), 1.5, 2.0)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
def test_whole_ids_beside_nulls_are_whole_in_any_table(tmp_path: Path, name: str) -> None:
    """As pandas writes them: the column becomes one of floats."""
    rows = [{"audio": "a.wav", "caption": "x", "id": id} for id in (12.0, None, 3.0)]
    if name == "m.csv":
        (tmp_path / name).write_text("audio,caption,id\na.wav,x,12.0\na.wav,x,\na.wav,x,3.0\n")
    else:
        write(tmp_path / name, rows)
    assert [clip.id for clip in load_manifest(tmp_path / name)] == ["12", "c0000002", "3"]


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_a_clip_may_have_several_captions(tmp_path: Path, name: str) -> None:
    rows = [{"audio": "a.wav", "captions": ["a dog", "a bark"]}]
    file = tmp_path / name
    if file.suffix == ".jsonl":
        write(file, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    assert load_manifest(file)[0].captions == ("a dog", "a bark")


@pytest.mark.parametrize(
    ("audio", "audio_dir", "location"),
    [
        ("x/a.wav", "/data", "/data/x/a.wav"),
        ("/abs/a.wav", "/data", "/abs/a.wav"),
        ("s3://b/a.wav", "/data", "s3://b/a.wav"),
        ("x/a b#.wav", "gs://bucket/dir/", "gs://bucket/dir/x/a%20b%23.wav"),
    ],
)
def test_paths_and_uris_are_relative_to_the_audio_directory(
    tmp_path: Path, audio: str, audio_dir: str, location: str
) -> None:
    (clip,) = load_manifest(write(tmp_path / "m.jsonl", [{"audio": audio, "caption": "x"}]), audio_dir)
    assert (clip.source, clip.location) == (audio, location)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("  ", "empty caption"),
        (None, "empty caption"),
        (["a dog", ""], "empty caption"),
        ("x" * (MAX_CAPTION_CHARS + 1), "huge caption"),
        ("half \ud800", "unreadable caption"),
        (math.nan, "empty caption"),
        ([None, "a dog"], "empty caption"),
        ([], "empty caption"),
        (5, "unreadable caption"),
        (-1.5, "unreadable caption"),
        (math.inf, "unreadable caption"),
        (True, "unreadable caption"),
        ({"text": "a dog"}, "unreadable caption"),
        (["a dog", 5], "unreadable caption"),
        ("5", "unreadable caption"),
        ("NaN", "unreadable caption"),
    ],
)
def test_a_caption_that_does_not_fit_is_the_clips_problem_and_no_error(
    tmp_path: Path, caption: object, reason: str
) -> None:
    (clip,) = load_manifest(write(tmp_path / "m.jsonl", [{"audio": "a.wav", "caption": caption}]))
    assert clip.problem and clip.problem[0] == reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "x", "audio": ""}, r"m.jsonl:2: audio is ''; it must be a text"),
        ({"audio": "a", "caption": "x", "start": -1}, r":2: start is -1; it must be a number of seconds of at least 0"),
        ({"audio": "a", "caption": "x", "start": "soon"}, r":2: start is 'soon'"),
        ({"audio": "a", "caption": "x", "start": math.inf}, r":2: start is inf"),
        ({"audio": "a", "caption": "x", "start": True}, r":2: start is True"),
        ({"audio": "a", "caption": "x", "start": 10**400}, r":2: start is 1000"),
        ({"audio": "a", "caption": "x", "duration": 0}, r":2: duration is 0; it must be a number of seconds above 0"),
        ({"audio": "a", "caption": "x", "id": ["no"]}, r":2: id is \['no'\]"),
        ({"audio": "a", "caption": "x", "id": "one"}, r"more than one clip has the id 'one'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "m.jsonl", [{"audio": "first.wav", "caption": "x", "id": "one"}, row])
    with pytest.raises(DataError, match=message):
        load_manifest(file)


def test_all_bad_rows_are_named_at_once_and_many_are_counted(tmp_path: Path) -> None:
    rows = [{"audio": "a", "caption": "x"}, *({"audio": "", "caption": "x"} for _ in range(25))]
    with pytest.raises(DataError, match=r"m.jsonl:2: audio .*; .*m.jsonl:21: audio .*; and 5 more$"):
        load_manifest(write(tmp_path / "m.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", b"x", "is named .jsonl, .csv or .parquet"),
        ("m.jsonl", b"", "contains no rows"),
        ("m.csv", b"audio,caption\n", "contains no rows"),
        ("m.csv", b"audio,caption\na.wav\n", r"m.csv:2: the number of cells is not that of the columns"),
        ("m.csv", b"audio,caption\na,b\n\xff,x\n", "m.csv:3: not UTF-8 text .*; save the file as UTF-8"),
        ("m.json", b'{"data": [\n{"id": 1, "caption": "caf\xe9"}]}', "m.json:2: not UTF-8 text"),
        ("m.csv", b"file,text\na,b\n", "has the columns file, text; expected audio and caption or captions or"),
        ("m.parquet", b"PAR1", "cannot be read as Parquet"),
        ("m.json", b"[]", 'it must be an object with "data"'),
        ("m.json", b"{", "is not JSON"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path / name)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 7.0, None])
def test_a_caption_that_is_no_text_sets_one_clip_aside_in_every_format(
    tmp_path: Path, name: str, value: object
) -> None:
    rows: list[dict[str, Any]] = [{"audio": "a.wav", "captions": ["a dog"]}, {"audio": "b.wav", "caption": value}]
    if name == "m.csv":
        cell = "" if value is None else value
        (tmp_path / name).write_text(f"audio,caption\na.wav,a dog\nb.wav,{cell}\n")
    elif name == "m.parquet":
        types = {"audio": pa.string(), "caption": pa.float64(), "captions": pa.list_(pa.string())}
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(types)), tmp_path / name)
    else:
        write(tmp_path / name, rows)
    whole, aside = load_manifest(tmp_path / name)
    assert whole.problem is None and whole.captions == ("a dog",)
    assert aside.problem and aside.problem[0] in ("empty caption", "unreadable caption")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "m.jsonl",
            '{"audio": "a.wav", "caption": "a dog", "start": null, "duration": NaN, "id": null, "captions": null}',
        ),
        ("m.jsonl", '{"audio": "a.wav", "captions": ["a dog"], "caption": NaN, "id": NaN, "start": NaN}'),
        ("m.csv", "audio,caption,start,duration,id\na.wav,a dog,,nan,\n"),
        ("m.csv", "\ufeffaudio , caption\r\na.wav,a dog\r\n"),
    ],
)
def test_null_and_nan_are_absent(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert load_manifest(tmp_path / name) == [Clip("c0000001", "a.wav", str(tmp_path / "a.wav"), ("a dog",))]


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet", "m.json"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        load_manifest(tmp_path / name)
