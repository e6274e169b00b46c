from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from actors.storage.shards import ShardWriter
from tangoflux.data.records import latents_shape
from tangoflux.errors import DataError, ResourceError
from tests.tables import rollouts


def table_of(part: int) -> pa.Table:
    return rollouts({(f"p{part}", k): k / 2 for k in range(3)})


@pytest.fixture
def writer(tmp_path: Path) -> ShardWriter:
    writer = ShardWriter(tmp_path / "rollouts" / "i0001")
    writer.write(1, table_of(1))
    writer.write(0, table_of(0))
    return writer


def test_shards_are_read_back_in_order_with_their_latents(writer: ShardWriter) -> None:
    table = writer.read(verify=True)
    written = pa.concat_tables([table_of(0), table_of(1)])
    column = written.schema.get_field_index("created_at")
    assert table.equals(written.set_column(column, "created_at", table["created_at"]))
    assert latents_shape(table.schema.field("latents")) == (4, 2, "float32")
    assert writer.read(["prompt_id", "reward"]).column_names == ["prompt_id", "reward"]
    assert writer.read_part(1)["prompt_id"].to_pylist() == ["p1"] * 3
    assert [path.name for path in writer.files()] == ["part-00000.parquet", "part-00001.parquet"]


def test_the_directory_is_a_data_set_for_others(writer: ShardWriter) -> None:
    assert pyarrow.dataset.dataset(writer.directory, format="parquet").count_rows() == 6
    assert len(pq.read_table(writer.directory)) == 6


def test_the_manifest_names_rows_size_and_hash(writer: ShardWriter) -> None:
    lines = [json.loads(line) for line in (writer.directory / ".manifest.jsonl").read_text().splitlines()]
    assert [(line["part"], line["file"], line["rows"]) for line in lines] == [
        (1, "part-00001.parquet", 3),
        (0, "part-00000.parquet", 3),
    ]
    assert lines[0]["bytes"] == (writer.directory / "part-00001.parquet").stat().st_size
    assert len(lines[0]["sha256"]) == 64


def test_a_shard_that_is_there_is_not_written_again(writer: ShardWriter) -> None:
    before = writer.read_part(0)
    writer.write(0, table_of(7))
    assert writer.read_part(0).equals(before)


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.write(0, table_of(0).slice(0, 0))
    assert writer.parts() == {0}
    assert len(writer.read()) == 0


def test_only_whole_files_that_the_manifest_names_count(writer: ShardWriter) -> None:
    pq.write_table(table_of(2), writer.directory / "part-00002.parquet")  # renamed, but the crash came before its line
    os.truncate(writer.directory / "part-00001.parquet", 100)
    assert writer.parts() == {0}
    writer.write(1, table_of(1))
    writer.write(2, table_of(2))
    assert writer.parts() == {0, 1, 2}
    assert len(writer.read(verify=True)) == 9


def test_a_torn_last_line_is_ignored_and_then_replaced(writer: ShardWriter) -> None:
    manifest = writer.directory / ".manifest.jsonl"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-9])
    assert writer.parts() == {1}
    writer.write(0, table_of(0))
    assert writer.parts() == {0, 1}
    assert manifest.read_bytes().count(b"\n") == 2


def test_a_damaged_manifest_is_named(writer: ShardWriter) -> None:
    with (writer.directory / ".manifest.jsonl").open("a") as file:
        file.write("no json\n")
    with pytest.raises(DataError, match=r"\.manifest\.jsonl, line 3 is not JSON .*; delete that line"):
        writer.parts()


def test_a_changed_shard_is_found_by_its_hash(writer: ShardWriter) -> None:
    path = writer.directory / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000\.parquet was changed after it was written"):
        writer.read(verify=True)


def test_missing_shards_are_named(writer: ShardWriter, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no complete shard 5"):
        writer.read_part(5)
    with pytest.raises(DataError, match="holds no complete shard"):
        ShardWriter(tmp_path / "nowhere").read()
    assert ShardWriter(tmp_path / "nowhere").parts() == set()


FULL_DISK = """
import resource, sys
from pathlib import Path
from actors.storage.shards import ShardWriter
from tangoflux.errors import ResourceError
from tests.actors.storage.test_shards import table_of

resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    ShardWriter(Path(sys.argv[1])).write(0, table_of(0))
except ResourceError as error:
    print(error)
"""
"""Lets no file grow beyond 2000 bytes, as on a full disk; in a process of its own, as its own output is a file too."""


def test_a_full_disk_leaves_nothing_behind_and_says_what_to_do(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    assert re.search(r"part-00000\.parquet cannot be written: File too large; .*ulimit -f", said.stdout)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollouts").write_text("a file is in the way")
    with pytest.raises(ResourceError, match=r"rollouts/i0001/part-00000\.parquet cannot be written"):
        ShardWriter(tmp_path / "rollouts" / "i0001").write(0, table_of(0))
