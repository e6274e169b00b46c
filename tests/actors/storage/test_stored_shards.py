from __future__ import annotations

import pyarrow as pa
import pytest

from actors.storage.object_store import ObjectStorePath
from actors.storage.shards import ShardWriter
from tangoflux.errors import DataError, ResourceError
from tests.actors.storage.test_shards import table_of
from tests.object_store import Fault, Proxy


def test_shards_are_read_back_in_order_by_anyone_who_knows_the_uri(bucket_dir: ObjectStorePath) -> None:
    writer = ShardWriter(bucket_dir / "rollouts")
    assert writer.parts() == set()
    for part in (1, 0):
        assert str(writer.write(part, table_of(part))).startswith(f"s3://bucket/{bucket_dir.key}/rollouts/part-0000")
    reader = ShardWriter(ObjectStorePath(str(writer.directory)))
    table = reader.read(verify=True)
    expected = pa.concat_tables([table_of(0), table_of(1)]).drop_columns("created_at")
    assert table.drop_columns("created_at").equals(expected)
    assert reader.read_part(1, ["prompt_id"])["prompt_id"].to_pylist() == ["p1"] * 3
    assert sorted((bucket_dir / "rollouts/.manifest").sizes()) == [f"0000{part}.json" for part in (0, 1)]
    with pytest.raises(DataError, match="has no complete shard 2"):
        reader.read_part(2)


def test_a_shard_that_is_there_is_not_written_again(bucket_dir: ObjectStorePath) -> None:
    writer = ShardWriter(bucket_dir)
    writer.write(0, table_of(0))
    writer.write(0, table_of(7))
    assert writer.read()["prompt_id"].to_pylist() == ["p0"] * 3


def test_a_columns_drop_leaves_one_whole_shard(bucket_dir: ObjectStorePath) -> None:
    writer = ShardWriter(bucket_dir)
    writer.write(0, table_of(0))
    for _ in range(2):
        writer.drop_columns(["latents"])
        assert "latents" not in writer.read(verify=True).column_names
        assert sorted(bucket_dir.sizes()) == [".manifest/00000.json", "part-00000-slim.parquet"]
        (bucket_dir / "part-00000.parquet").put(b"left by a driver that was killed before it deleted this")


def test_the_requests_for_all_shards_grow_with_their_number_and_not_with_its_square(
    bucket_dir: ObjectStorePath, proxy: Proxy
) -> None:
    writer, requests = ShardWriter(bucket_dir), list[int]()
    for part in range(8):
        writer.write(part, table_of(part))
        if part in (3, 7):
            before = proxy.requests
            assert [number for number, _ in writer.tables()] == list(range(part + 1))
            requests.append(proxy.requests - before)
    before = proxy.requests
    writer.read_part(7)
    assert proxy.requests - before < requests[0]
    assert requests[1] <= 2 * requests[0]


@pytest.mark.parametrize("passed_on", [0, 1])
def test_a_shard_whose_writing_fails_for_good_is_in_no_manifest(
    bucket_dir: ObjectStorePath, proxy: Proxy, passed_on: int
) -> None:
    """The first request puts the shard, the second one its manifest object."""
    writer = ShardWriter(bucket_dir)
    writer.write(0, table_of(0))
    faults: list[Fault | None] = [*[None for _ in range(passed_on)], *["error" for _ in range(30)]]
    proxy.spoil(*faults, methods=("PUT", "POST"))
    with pytest.raises(ResourceError, match="cannot be written"):
        writer.write(1, table_of(1))
    proxy.spoil()
    assert writer.parts() == {0}
    writer.write(1, table_of(1))
    assert writer.parts() == {0, 1}
    assert len(writer.read(verify=True)) == 6


@pytest.mark.parametrize("fault", ["error", "cut", "answer lost"])
def test_spoilt_requests_leave_no_trace(bucket_dir: ObjectStorePath, proxy: Proxy, fault: Fault) -> None:
    writer = ShardWriter(bucket_dir)
    for part in range(2):
        proxy.spoil(fault, None, fault)
        writer.write(part, table_of(part))
    proxy.spoil()
    assert len(writer.read(verify=True)) == 6


def test_an_object_of_another_size_than_entered_does_not_count(bucket_dir: ObjectStorePath) -> None:
    writer = ShardWriter(bucket_dir)
    writer.write(0, table_of(0))
    (bucket_dir / "part-00000.parquet").put(b"half")
    assert writer.parts() == set()
    writer.write(0, table_of(0))
    assert len(writer.read(verify=True)) == 3
