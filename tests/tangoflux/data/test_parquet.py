from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tangoflux.data.manifest import Clip
from tangoflux.data.parquet import embedded_audio
from tangoflux.data.published_sets import load_manifest
from tangoflux.errors import DataError
from tests.tangoflux.data.made_audio import wav

HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(file: Path, columns: dict[str, Any], rows_a_group: int = 2) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=rows_a_group)
    return file


@pytest.mark.parametrize("kind", [HUGGING_FACE, pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())])])
def test_embedded_audio_is_a_clip_whose_audio_stays_in_the_file(tmp_path: Path, kind: pa.DataType) -> None:
    audio = [{"bytes": b"one", "path": "dog.wav"}, {"bytes": b"two", "path": None}, {"bytes": None, "path": "x/b.wav"}]
    file = write(tmp_path / "m.parquet", {"caption": ["a", "b", "c"], "audio": pa.array(audio, kind)})
    assert load_manifest(file) == [
        Clip("c0000001", "dog.wav", str(tmp_path / "dog.wav"), ("a",), embedded=(str(file), 0)),
        Clip("c0000002", f"{file}, row 2", "", ("b",), embedded=(str(file), 1)),
        Clip("c0000003", "x/b.wav", str(tmp_path / "x/b.wav"), ("c",), embedded=(str(file), 2)),
    ]
    assert [embedded_audio(str(file), row) for row in range(3)] == [b"one", b"two", None]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_audio_may_be_bytes_without_a_path(tmp_path: Path, kind: pa.DataType) -> None:
    file = write(tmp_path / "m.parquet", {"audio": pa.array([b"one", None], kind), "caption": ["a", "b"]})
    assert [clip.embedded for clip in load_manifest(file)] == [(str(file), 0), (str(file), 1)]
    assert [embedded_audio(str(file), row) for row in (1, 0)] == [None, b"one"]


@pytest.mark.parametrize("rows_a_group", [1, 3, 7, 100])
def test_rows_are_found_in_any_order_and_any_groups(tmp_path: Path, rows_a_group: int) -> None:
    audio = [{"bytes": str(row).encode(), "path": None} for row in range(20)]
    columns = {"audio": pa.array([*audio, None], HUGGING_FACE), "caption": ["x"] * 21}
    file = write(tmp_path / "m.parquet", columns, rows_a_group)
    for row in (3, 4, 9, 2, 19, 0, 0, 20):
        assert embedded_audio(str(file), row) == (str(row).encode() if row < 20 else None)


def test_a_published_set_with_its_audio_is_read_as_a_manifest(tmp_path: Path) -> None:
    columns = {
        "audiocap_id": [1, 2],
        "youtube_id": ["v", "w"],
        "start_time": [30, 0],
        "caption": ["a", "b"],
        "audio": pa.array([{"bytes": b"x", "path": "v.wav"}] * 2, HUGGING_FACE),
    }
    first, second = load_manifest(write(tmp_path / "m.parquet", columns))
    assert (first.embedded, second.captions) == ((str(tmp_path / "m.parquet"), 0), ("b",))


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (pa.array(["a", None], pa.large_string()), [("a",), ("",)]),
        (pa.array(["a", "b"]).dictionary_encode(), [("a",), ("b",)]),
        (pa.array([["a", "b"], ["c"]], pa.large_list(pa.large_string())), [("a", "b"), ("c",)]),
        (pa.array([["a", None], None], pa.list_(pa.string())), [("a", ""), ("",)]),
        (pa.array([["a", "b"], ["c", "d"]], pa.list_(pa.string(), 2)), [("a", "b"), ("c", "d")]),
        (pa.nulls(2), [("",), ("",)]),
    ],
)
def test_texts_come_in_any_of_arrows_types(tmp_path: Path, captions: Any, expected: list[tuple[str, ...]]) -> None:
    columns = {"audio": pa.array(["a.wav", "b.wav"]).dictionary_encode(), "captions": captions}
    assert [clip.captions for clip in load_manifest(write(tmp_path / "m.parquet", columns))] == expected


def test_a_folder_of_files_is_one_manifest_in_the_order_of_their_names(tmp_path: Path) -> None:
    """As a data set of Hugging Face lies in its cache: the files are links, and one may be empty."""
    (tmp_path / "blobs").mkdir()
    (folder := tmp_path / "data").mkdir()
    for name, captions in (("2-of-3", ["d"]), ("0-of-3", ["a", "b", "c"]), ("1-of-3", [])):
        audio = pa.array([{"bytes": caption.encode(), "path": f"{caption}.wav"} for caption in captions], HUGGING_FACE)
        write(tmp_path / "blobs" / name, {"caption": pa.array(captions, pa.string()), "audio": audio})
        (folder / f"train-0000{name}.parquet").symlink_to(tmp_path / "blobs" / name)
    for other in ("README.md", "._train-00000-of-3.parquet"):
        (folder / other).write_bytes(b"no table")
    clips = load_manifest(folder)
    assert [clip.id for clip in clips] == ["c0000001", "c0000002", "c0000003", "c0000004"]
    assert [embedded_audio(*clip.embedded) for clip in clips if clip.embedded] == [b"a", b"b", b"c", b"d"]
    assert clips[3].location == str(folder / "d.wav")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"data is a folder without .parquet files; name a .jsonl"),
        ({"train/0.parquet": {}}, r"data is a folder without .parquet files; did you mean .*data/train\?"),
        ({"0.parquet": {"caption": []}, "1.parquet": {"caption": []}}, r"data contains no rows"),
        ({"0.parquet": {"caption": ["x"]}, "1.parquet": {"text": ["x"]}}, r"1.parquet has the columns audio, text"),
        ({"0.parquet": {"caption": ["x"]}, "1.parquet": {"caption": ["x"], "start": [0]}}, r"a folder of its own"),
        ({"0.parquet": {"id": [1], "caption": ["x"]}, "1.parquet": {"id": [1], "caption": ["y"]}}, r"the id '1'; make"),
    ],
)
def test_a_folder_that_is_no_manifest_is_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    (tmp_path / "data").mkdir()
    for name, columns in files.items():
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        audio = pa.array(["a.wav"] * len(columns.get("caption", [""])), pa.string())
        write(tmp_path / "data" / name, {"audio": audio, **columns})
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path / "data")


AUDIO = pa.array([{"bytes": wav(), "path": "a.wav"}], HUGGING_FACE)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"audio": AUDIO, "text": ["x"]}, r"has the columns audio, text; expected audio and caption or captions"),
        ({"file": AUDIO, "text": ["x"]}, r"has the columns file, text; expected audio and caption or captions"),
        ({"file": AUDIO, "caption": ["x"]}, r"has the columns file, caption; expected audio and"),
        ({"audio": ["a"], "caption": [b"x"]}, r"the column caption has the type binary; a manifest has texts or num"),
        ({"audio": ["a"], "caption": [[b"x"]]}, r"the column caption has the type list<.*binary>; a manifest has"),
        ({"audio": ["a"], "caption": AUDIO}, r"the column caption has the type struct<bytes: binary, path: string>"),
        ({"audio": ["a"], "caption": ["x"], "start": pa.array([7], pa.timestamp("ns"))}, r"start has the type timesta"),
        ({"audio": [{"array": [0.1]}], "caption": ["x"]}, r"audio has the type struct<array: .*; a manifest has paths"),
        ({"audio": AUDIO, "caption": ["x"], "id": [b"\x00"]}, r"the column id has the type binary"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_bytes_are_printed(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=r"m.parquet.*" + message) as error:
        load_manifest(write(tmp_path / "m.parquet", columns))
    assert "\\x" not in str(error.value) and len(str(error.value)) < 500


def test_wrong_rows_are_named_and_no_bytes_are_printed(tmp_path: Path) -> None:
    columns = {"audio": pa.concat_arrays([AUDIO, AUDIO]), "caption": ["x", "y"], "start": [0.0, -1.0]}
    with pytest.raises(DataError, match=r"m.parquet, row 2: start is -1.0; it must be a number") as error:
        load_manifest(write(tmp_path / "m.parquet", columns))
    assert "\\x" not in str(error.value)


def test_a_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    caption = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(DataError, match=r"m.parquet cannot be read as Parquet: .*UTF8 sequence at string index 1"):
        load_manifest(write(tmp_path / "m.parquet", {"audio": ["a", "b"], "caption": caption}))


def test_the_manifest_is_read_without_the_audio_and_damaged_audio_is_an_error(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": bytes([row]) * 9000, "path": None} for row in range(4)], HUGGING_FACE)
    file = write(tmp_path / "m.parquet", {"audio": audio, "caption": list("abcd")})
    column = pq.read_metadata(file).row_group(0).column(0)
    assert column.path_in_schema == "audio.bytes"
    with file.open("r+b") as damaged:
        damaged.seek(column.dictionary_page_offset or column.data_page_offset)
        damaged.write(b"\xff" * 40)
    assert len(load_manifest(file)) == 4
    with pytest.raises(OSError):
        embedded_audio(str(file), 0)
    assert embedded_audio(str(file), 3) == b"\x03" * 9000, "of another row group"
