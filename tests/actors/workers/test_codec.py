"""The codec's workers, as plain classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from actors.storage.shards import ShardWriter
from actors.workers.chunk import rollout_chunks
from actors.workers.codec import CodecWorker, PairChunk, pair_chunks
from actors.workers.messages import NOT_SCORED, ShardRows, StoredShard
from actors.workers.reward import RewardWorker
from actors.workers.rollout import RolloutWorker
from tangoflux.data.pairs import RatedPair
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import latents_array, preference_schema
from tangoflux.errors import DataError
from tangoflux.sampling_params import SamplingParams
from tests.tables import rollouts

PROMPTS = [Prompt("a", "a dog barks", 0.5), Prompt("b", "a bell rings", 1.0)]
PARAMS = SamplingParams(2, 3.0, "noise")
SCHEMA = preference_schema(63, 8)
RATE = 16_000


@pytest.fixture(scope="module")
def codec(tiny_policy_dir: Path) -> CodecWorker:
    return CodecWorker(tiny_policy_dir)


def test_rollouts_scored_later_are_those_scored_at_once(
    tiny_policy_dir: Path, codec: CodecWorker, tmp_path: Path
) -> None:
    chunk = rollout_chunks(PROMPTS, 1, 0, 3, 2)[0]
    batch = RolloutWorker(tiny_policy_dir, PARAMS).sample(chunk)
    assert set(batch.rows["failure"].to_pylist()) == {NOT_SCORED} and batch.rows["reward"].null_count == 6
    ShardWriter(tmp_path).write(0, batch.rows)
    decoded = codec.decode(StoredShard(tmp_path, 0))
    for ours, theirs in zip(decoded.waveforms, batch.waveforms, strict=True):
        np.testing.assert_array_equal(np.stack(ours), np.stack(theirs))
    assert decoded.rows == batch.rows
    reward = RewardWorker({"reward": "tests.actors.fake_rewards:Loudness"})
    assert reward.score_to_rows(decoded).rows == reward.score_to_rows(batch).rows


def test_a_shard_that_was_changed_is_refused(codec: CodecWorker, tmp_path: Path) -> None:
    ShardWriter(tmp_path).write(0, rollouts({("a", 0): 1.0, ("a", 1): 1.0}))
    file = ShardWriter(tmp_path).files()[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written"):
        codec.decode(StoredShard(tmp_path, 0))


def latents_of(shard: ShardRows) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of the only pair, without padding: chosen and rejected."""
    frames = shard.rows["num_frames"][0].as_py()
    chosen, rejected = (latents_array(shard.rows[f"{side}_latents"])[0, :frames] for side in ("chosen", "rejected"))
    return chosen, rejected


def rated(chosen: Path, rejected: Path, duration_s: float, frames: int) -> PairChunk:
    return PairChunk(0, (RatedPair(Prompt("p", "a dog barks", duration_s), chosen, rejected, frames, "pairs.jsonl:1"),))


def test_audio_of_any_rate_channels_and_length_becomes_latents_of_one_length(
    codec: CodecWorker, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (5 * 44_100, 2))
    soundfile.write(tmp_path / "long.wav", noise, 44_100)
    soundfile.write(tmp_path / "short.flac", noise[:4000, :1], RATE)
    chosen, rejected = latents_of(codec.encode(rated(tmp_path / "long.wav", tmp_path / "short.flac", 1.25, 20), SCHEMA))
    assert chosen.shape == rejected.shape == (20, 8)
    assert chosen.dtype == np.float32 and not np.allclose(chosen, rejected)


def test_what_is_beyond_the_duration_is_not_heard(codec: CodecWorker, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", noise[: RATE // 2], RATE, subtype="FLOAT")
    chosen, rejected = latents_of(codec.encode(rated(tmp_path / "a.wav", tmp_path / "b.wav", 0.5, 63), SCHEMA))
    np.testing.assert_array_equal(chosen, rejected)
    heard = torch.nn.functional.pad(torch.from_numpy(noise[: RATE // 2]), (0, 63 * 1024 - RATE // 2))
    with torch.no_grad():
        expected = codec._codec.encode(heard[None, None])[0]  # pyright: ignore[reportPrivateUsage]
    np.testing.assert_array_equal(chosen, expected.numpy())


def test_stored_latents_are_taken_as_they_are(codec: CodecWorker, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(16, 8))
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values.astype(np.float16))
    chosen, rejected = latents_of(codec.encode(rated(tmp_path / "a.npy", tmp_path / "b.npy", 1.0, 16), SCHEMA))
    np.testing.assert_array_equal(chosen, values.astype(np.float32))
    np.testing.assert_array_equal(rejected, values.astype(np.float16).astype(np.float32))


def test_audio_that_breaks_off_is_named_with_its_line(codec: CodecWorker, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.inf], np.float32), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"^pairs.jsonl:1: .*a.wav contains samples that are not finite"):
        codec.encode(rated(tmp_path / "a.wav", tmp_path / "a.wav", 1.0, 16), SCHEMA)


def test_chunks_of_pairs_keep_their_order(tmp_path: Path) -> None:
    pairs = [rated(tmp_path, tmp_path, 1.0, number).pairs[0] for number in range(5)]
    chunks = pair_chunks(pairs, 2)
    assert [len(chunk.pairs) for chunk in chunks] == [2, 2, 1] and [chunk.part for chunk in chunks] == [0, 1, 2]
    assert [pair for chunk in chunks for pair in chunk.pairs] == pairs
