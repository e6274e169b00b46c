"""The writer as a plain class."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.storage.samples import read_samples
from actors.storage.shards import ShardWriter
from actors.workers.chunk import rollout_chunks
from actors.workers.fakes import FakeReward, FakeRollout
from actors.workers.messages import Destination, RolloutBatch, ShardRows, StoredShard
from actors.workers.writer import WriterWorker
from tangoflux.data.health import HealthSums
from tangoflux.data.preferences import make_pairs
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical
from tangoflux.errors import DataError


@pytest.fixture
def batch() -> RolloutBatch:
    """Three prompts, four samples each; the reward of a sample is its index."""
    (chunk,) = rollout_chunks([Prompt(f"p{n}", "a dog", 1.0) for n in range(3)], 2, 0, 4, 3)
    return FakeRollout(5, 2).sample(chunk)


@pytest.fixture
def shard(batch: RolloutBatch) -> ShardRows:
    return FakeReward().score_to_rows(batch)


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination(tmp_path / "rollouts", tmp_path / "preferences")


def test_rollouts_and_their_pairs_are_written_together(shard: ShardRows, destination: Destination) -> None:
    written = WriterWorker().write(shard, destination)
    assert ShardWriter(tmp_of(destination.rollouts)).read(verify=True) == shard.rows
    pairs, counts = make_pairs(shard.rows)
    assert ShardWriter(tmp_of(destination.preferences)).read(verify=True) == pairs
    assert len(pairs) == 3 and pairs["chosen_index"].to_pylist() == [3] * 3
    assert (written.part, written.rows, written.counts, written.health) == (0, 12, counts, HealthSums.of(shard.rows))


def test_a_chunk_that_arrives_twice_is_written_once(shard: ShardRows, destination: Destination) -> None:
    written = [WriterWorker().write(shard, destination) for _ in range(2)]
    assert written[0] == written[1]
    assert len(ShardWriter(tmp_of(destination.rollouts)).read()) == 12


def test_pairs_exceed_the_margin(shard: ShardRows, tmp_path: Path) -> None:
    # The best reward exceeds the worst by 3.
    for margin, made in ((2.9, 3), (3.0, 0)):
        destination = Destination(tmp_path / f"r{margin}", tmp_path / f"p{margin}", margin)
        assert WriterWorker().write(shard, destination).counts.made == made
        assert len(ShardWriter(tmp_path / f"p{margin}").read()) == made


def test_missing_pairs_of_a_stored_shard_are_written_and_summarised(shard: ShardRows, destination: Destination) -> None:
    at_once = WriterWorker().write(shard, destination)
    preferences = ShardWriter(tmp_of(destination.preferences))
    before = canonical(preferences.read())
    preferences.files()[0].unlink()
    assert WriterWorker().pair(StoredShard(destination.rollouts, 0), destination) == at_once
    assert canonical(preferences.read(verify=True)) == before


def test_a_stored_shard_that_was_changed_makes_no_pairs(shard: ShardRows, destination: Destination) -> None:
    WriterWorker().write(shard, destination)
    file = ShardWriter(tmp_of(destination.rollouts)).files()[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written"):
        WriterWorker().pair(StoredShard(destination.rollouts, 0), destination)


def test_unscored_rollouts_can_be_listened_to(batch: RolloutBatch, tmp_path: Path) -> None:
    assert WriterWorker().write_unscored(batch, tmp_path / "shards", tmp_path / "audio") == 12
    assert ShardWriter(tmp_path / "shards").read() == batch.rows
    samples = read_samples(tmp_path / "audio")
    assert [sample.prompt_id for sample in samples[:5]] == ["p0-0", "p0-1", "p0-2", "p0-3", "p1-0"]
    assert len({sample.file for sample in samples}) == 12


def tmp_of(directory: object) -> Path:
    assert isinstance(directory, Path)
    return directory
