"""The codec's workers, as plain classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from actors.workers.chunk import rollout_chunks
from actors.workers.codec import CodecWorker, PairChunk, pair_chunks, stored_chunk
from actors.workers.reward import RewardWorker, rollout_table
from actors.workers.rollout import RolloutWorker
from actors.workers.unscored import NOT_SCORED, UnscoredRolloutWorker, unscored
from tangoflux.data.pairs import RatedPair
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical_sha256, rollout_schema
from tangoflux.errors import DataError
from tangoflux.sampling_params import SamplingParams
from tests.tables import rollouts

PROMPTS = [Prompt("a", "a dog barks", 0.5), Prompt("b", "a bell rings", 1.0)]
PARAMS = SamplingParams(2, 3.0, "noise")
SCHEMA = rollout_schema(63, 8)
RATE = 16_000


@pytest.fixture(scope="module")
def codec(tiny_policy_dir: Path) -> CodecWorker:
    return CodecWorker(tiny_policy_dir)


def test_rollouts_scored_later_are_those_scored_at_once(tiny_policy_dir: Path, codec: CodecWorker) -> None:
    chunk = rollout_chunks(PROMPTS, 1, 0, 3, 2)[0]
    batch = RolloutWorker(tiny_policy_dir, PARAMS).sample(chunk)
    stored = rollout_table(unscored(batch), SCHEMA)
    assert set(stored["failure"].to_pylist()) == {NOT_SCORED} and stored["reward"].null_count == 6
    decoded = codec.decode(stored_chunk(0, stored, "shard"))
    for ours, theirs in zip(decoded.waveforms, batch.waveforms, strict=True):
        np.testing.assert_array_equal(np.stack(ours), np.stack(theirs))
    reward = RewardWorker({"reward": "tests.actors.fake_rewards:Loudness"})
    now, later = (reward.score(each, ("reward",)) for each in (batch, decoded))
    np.testing.assert_array_equal(now.scores["reward"].rewards, later.scores["reward"].rewards)
    assert decoded.chunk == chunk and decoded.params == PARAMS


def test_an_unscored_worker_samples_what_any_other_does(tiny_policy_dir: Path) -> None:
    chunk = rollout_chunks(PROMPTS, 1, 0, 2, 2)[0]
    worker = UnscoredRolloutWorker(tiny_policy_dir, PARAMS)
    tables = [rollout_table(worker.sample_unscored(chunk, keep), SCHEMA) for keep in (False, True)]
    assert canonical_sha256(tables[0]) == canonical_sha256(tables[1])
    assert worker.sample_unscored(chunk, False).waveforms == {}
    assert {key: len(group) for key, group in worker.sample_unscored(chunk, True).waveforms.items()} == {"a": 2, "b": 2}


def test_groups_of_different_sizes_are_refused() -> None:
    table = rollouts({("a", 0): 1.0, ("a", 1): 1.0, ("b", 0): 1.0})
    with pytest.raises(DataError, match="shard 7: prompts have from 1 to 2 samples"):
        stored_chunk(7, table, "shard 7")


def rated(chosen: Path, rejected: Path, duration_s: float, frames: int) -> PairChunk:
    return PairChunk(0, (RatedPair(Prompt("p", "a dog barks", duration_s), chosen, rejected, frames, "pairs.jsonl:1"),))


def test_audio_of_any_rate_channels_and_length_becomes_latents_of_one_length(
    codec: CodecWorker, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (5 * 44_100, 2))
    soundfile.write(tmp_path / "long.wav", noise, 44_100)
    soundfile.write(tmp_path / "short.flac", noise[:4000, :1], RATE)
    latents = codec.encode(rated(tmp_path / "long.wav", tmp_path / "short.flac", 1.25, 20))
    assert [row.shape for row in (*latents.chosen, *latents.rejected)] == [(20, 8), (20, 8)]
    assert latents.chosen[0].dtype == np.float32 and not np.allclose(latents.chosen[0], latents.rejected[0])


def test_what_is_beyond_the_duration_is_not_heard(codec: CodecWorker, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", noise[: RATE // 2], RATE, subtype="FLOAT")
    latents = codec.encode(rated(tmp_path / "a.wav", tmp_path / "b.wav", 0.5, 63))
    np.testing.assert_array_equal(latents.chosen[0], latents.rejected[0])
    heard = torch.nn.functional.pad(torch.from_numpy(noise[: RATE // 2]), (0, 63 * 1024 - RATE // 2))
    with torch.no_grad():
        expected = codec._codec.encode(heard[None, None])[0]  # pyright: ignore[reportPrivateUsage]
    np.testing.assert_array_equal(latents.chosen[0], expected.numpy())


def test_stored_latents_are_taken_as_they_are(codec: CodecWorker, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(16, 8))
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values.astype(np.float16))
    latents = codec.encode(rated(tmp_path / "a.npy", tmp_path / "b.npy", 1.0, 16))
    np.testing.assert_array_equal(latents.chosen[0], values.astype(np.float32))
    np.testing.assert_array_equal(latents.rejected[0], values.astype(np.float16).astype(np.float32))


def test_audio_that_breaks_off_is_named_with_its_line(codec: CodecWorker, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.inf], np.float32), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"^pairs.jsonl:1: .*a.wav contains samples that are not finite"):
        codec.encode(rated(tmp_path / "a.wav", tmp_path / "a.wav", 1.0, 16))


def test_chunks_of_pairs_keep_their_order(tmp_path: Path) -> None:
    pairs = [rated(tmp_path, tmp_path, 1.0, number).pairs[0] for number in range(5)]
    chunks = pair_chunks(pairs, 2)
    assert [len(chunk.pairs) for chunk in chunks] == [2, 2, 1] and [chunk.part for chunk in chunks] == [0, 1, 2]
    assert [pair for chunk in chunks for pair in chunk.pairs] == pairs
