from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.storage.shards import ShardWriter
from actors.workers.chunk import rollout_chunks
from actors.workers.reward import RewardWorker, rollout_table
from actors.workers.rollout import RolloutBatch, RolloutWorker
from actors.workers.writer import WriterWorker
from tangoflux.data.preferences import make_pairs
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical, latents_array, rollout_schema
from tangoflux.errors import ConfigError
from tangoflux.sampling_params import SamplingParams

ROLES = {"reward": "tests.actors.fake_rewards:Moody", "judge": "tests.actors.fake_rewards:Loudness"}
TEXTS = ["a dog", "raise", "shape", "nan", "infinite", "write"]
SCHEMA = rollout_schema(63, 8)


@pytest.fixture(scope="module")
def batch(tiny_policy_dir: Path) -> RolloutBatch:
    """Six prompts, two samples each."""
    prompts = [Prompt(f"p{n}", text, 0.3) for n, text in enumerate(TEXTS)]
    (chunk,) = rollout_chunks(prompts, 2, 0, 2, 6)
    return RolloutWorker(tiny_policy_dir, SamplingParams(2, 2.0, "noise"), torch.get_num_threads()).sample(chunk)


@pytest.fixture(scope="module")
def worker() -> RewardWorker:
    return RewardWorker(ROLES, torch.get_num_threads())


def test_every_role_scores_every_sample(worker: RewardWorker, batch: RolloutBatch) -> None:
    scored = worker.score(batch, ("judge",))
    assert set(scored.scores) == {"judge"}
    expected = [[np.sqrt(np.mean(np.square(w, dtype=float))) for w in group] for group in batch.waveforms]
    np.testing.assert_array_equal(scored.scores["judge"].rewards, expected)
    np.testing.assert_allclose(scored.rms, expected, rtol=1e-6)
    np.testing.assert_array_equal(scored.peak, [[np.abs(w).max() for w in group] for group in batch.waveforms])


def test_a_failure_marks_its_own_group_and_is_no_score(worker: RewardWorker, batch: RolloutBatch) -> None:
    scores = worker.score(batch, ("reward",)).scores["reward"]
    raised = "FileNotFoundError: no ... at ..., really"
    shape = "reward moody returned rewards of shape (1,) for 2 samples"
    number = "the reward is not a finite number"
    assert scores.failures == [[None] * 2, [raised] * 2, [shape] * 2, [None, number], [number, None], [None] * 2]
    np.testing.assert_array_equal(np.isnan(scores.rewards), [[why is not None for why in w] for w in scores.failures])


def test_other_roles_are_not_touched_by_a_failure(worker: RewardWorker, batch: RolloutBatch) -> None:
    scored = worker.score(batch, ("reward", "judge"))
    assert np.isfinite(scored.scores["judge"].rewards).all()
    assert scored.scores["judge"].rewards[5, 0] > 0, "the reward wrote to its own copy"


def test_silence_is_scored_and_audio_that_is_not_finite_is_not(worker: RewardWorker, batch: RolloutBatch) -> None:
    silent = [[np.zeros_like(w) for w in group] for group in batch.waveforms]
    silent[0][1] = np.full_like(silent[0][1], np.nan)
    scores = worker.score(replace(batch, waveforms=silent), ("judge",)).scores["judge"]
    assert scores.failures[0] == ["a waveform of the group is not finite"] * 2
    assert scores.rewards[5].tolist() == [0.0, 0.0]


def test_waveforms_stay_behind_unless_they_are_asked_for(worker: RewardWorker, batch: RolloutBatch) -> None:
    assert worker.score(batch, ("judge",)).rollouts.waveforms == []
    kept = worker.score(batch, ("judge",), keep_waveforms=["p3", "p9"])
    assert set(kept.waveforms) == {"p3"}
    assert kept.rollouts.waveforms == []
    np.testing.assert_array_equal(kept.waveforms["p3"][1], batch.waveforms[3][1])


def test_rows_say_where_they_come_from(worker: RewardWorker, batch: RolloutBatch) -> None:
    scored = worker.score(batch, ("judge", "reward"))
    table = rollout_table(scored, SCHEMA, "judge")
    assert table.schema.equals(SCHEMA)
    row = table.drop_columns("latents").slice(5, 1).to_pylist()[0]
    expected = {
        "iteration": 2,
        "prompt_id": "p2",
        "sample_index": 1,
        "prompt": "shape",
        "duration_s": 0.3,
        "policy_version": 0,
        "seed": batch.chunk.seeds[2][1],
        "num_steps": 2,
        "guidance_scale": 2.0,
        "negative_prompt": "noise",
        "num_frames": 5,
        "reward": scored.scores["judge"].rewards[2, 1],
        "reward_model": "loudness",
        "reward_checkpoint": "none",
        "failure": None,
    }
    assert {name: row[name] for name in expected} == expected
    np.testing.assert_array_equal(latents_array(table["latents"])[5, :5], batch.latents[2][1])
    assert canonical(table)["prompt_id"].to_pylist() == table["prompt_id"].to_pylist(), "already in canonical order"


def test_failed_groups_make_no_pairs_and_are_counted(worker: RewardWorker, batch: RolloutBatch) -> None:
    table = rollout_table(worker.score(batch, ("reward",)), SCHEMA)
    assert table["reward"].null_count == 6
    pairs, counts = make_pairs(table)
    assert pairs["prompt_id"].to_pylist() == ["p0", "p5"]
    assert (counts.made, counts.tied, counts.dropped) == (2, 0, 4)
    assert sum(counts.reasons.values()) == 4


def test_an_unknown_reward_is_named() -> None:
    with pytest.raises(ConfigError, match=r"fake_rewards has no class Missing"):
        RewardWorker({"reward": "tests.actors.fake_rewards:Missing"})


def test_what_is_for_training_comes_as_the_rows_of_its_shard_and_is_written_once(
    worker: RewardWorker, batch: RolloutBatch, tmp_path: Path
) -> None:
    rows = worker.score_to_rows(batch, SCHEMA)
    assert canonical(rows.table) == canonical(rollout_table(worker.score(batch, ("reward",)), SCHEMA))
    written = [WriterWorker().write(rows, tmp_path) for _ in range(2)]
    assert written[0] == written[1]
    assert (written[0].rows, written[0].counts) == (12, make_pairs(rows.table)[1])
    assert ShardWriter(tmp_path).read() == rows.table
