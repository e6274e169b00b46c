from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.workers.chunk import heldout_chunks, rollout_chunks
from actors.workers.messages import RolloutBatch
from actors.workers.reward import RewardWorker
from actors.workers.rollout import RolloutWorker
from tangoflux.data.flac import decode_flac
from tangoflux.data.preferences import make_pairs
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical, rollout_schema
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
    scores = worker.score(batch, "judge")
    assert (scores.model, scores.checkpoint) == ("loudness", "none")
    expected = [np.sqrt(np.mean(np.square(w, dtype=float))) for group in batch.waveforms for w in group]
    np.testing.assert_array_equal(scores.rewards, expected)


def test_a_failure_marks_its_own_group_and_is_no_score(worker: RewardWorker, batch: RolloutBatch) -> None:
    scores = worker.score(batch)
    raised = "FileNotFoundError: no ... at ..., really"
    shape = "reward moody returned rewards of shape (1,) for 2 samples"
    number = "the reward is not a finite number"
    assert scores.failures == [None, None, raised, raised, shape, shape, None, number, number, None, None, None]
    np.testing.assert_array_equal(np.isnan(scores.rewards), [why is not None for why in scores.failures])


def test_other_roles_are_not_touched_by_a_failure(worker: RewardWorker, batch: RolloutBatch) -> None:
    worker.score(batch)
    judged = worker.score(batch, "judge")
    assert np.isfinite(judged.rewards).all()
    assert judged.rewards[10] > 0, "the reward wrote to its own copy"


def test_silence_is_scored_and_audio_that_is_not_finite_is_not(worker: RewardWorker, batch: RolloutBatch) -> None:
    silent = [[np.zeros_like(w) for w in group] for group in batch.waveforms]
    silent[0][1] = np.full_like(silent[0][1], np.nan)
    scores = worker.score(replace(batch, waveforms=silent), "judge")
    assert scores.failures[:2] == ["a waveform of the group is not finite"] * 2
    assert scores.rewards[10:].tolist() == [0.0, 0.0]


def test_held_out_prompts_return_scores_and_only_the_audio_that_is_asked_for(
    worker: RewardWorker, tiny_policy_dir: Path
) -> None:
    prompts = [Prompt("a", "a dog", 0.3), Prompt("b", "raise", 0.3)]
    (chunk,) = heldout_chunks(prompts, 0, 1, 1, 2)
    batch = RolloutWorker(tiny_policy_dir, SamplingParams(2, 2.0), torch.get_num_threads()).sample(chunk)
    scored = worker.score_heldout(batch, ("reward", "judge"), ["b", "c"])
    assert {id: sorted(scores) for id, scores in scored.scores.items()} == {id: ["judge", "reward"] for id in "ab"}
    assert scored.scores["a"]["judge"] == worker.score(batch, "judge").rewards[0]
    assert np.isnan(scored.scores["b"]["reward"]) and np.isfinite(scored.scores["b"]["judge"])
    assert set(scored.audio) == {"b"}
    np.testing.assert_allclose(decode_flac(scored.audio["b"])[0], batch.waveforms[1][0], atol=1e-4)


def test_rows_say_where_they_come_from(worker: RewardWorker, batch: RolloutBatch) -> None:
    table = worker.score_to_rows(batch).rows
    assert table.schema.equals(SCHEMA)
    row = table.drop_columns("latents").slice(1, 1).to_pylist()[0]
    expected = {
        "iteration": 2,
        "prompt_id": "p0",
        "sample_index": 1,
        "prompt": "a dog",
        "duration_s": 0.3,
        "policy_version": 0,
        "seed": batch.rows["seed"][1].as_py(),
        "num_steps": 2,
        "guidance_scale": 2.0,
        "negative_prompt": "noise",
        "num_frames": 5,
        "reward": worker.score(batch).rewards[1],
        "reward_components": [{"name": "moody", "score": worker.score(batch).rewards[1]}],
        "reward_model": "moody",
        "reward_checkpoint": "none",
        "failure": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert table["latents"] == batch.rows["latents"]
    assert canonical(table)["prompt_id"].to_pylist() == table["prompt_id"].to_pylist(), "already in canonical order"


def test_rows_hold_what_each_of_several_rewards_said(batch: RolloutBatch) -> None:
    name = f"1*{ROLES['judge']}+-1*{ROLES['reward']}"
    table = RewardWorker({"reward": name}, torch.get_num_threads(), combination="rank").score_to_rows(batch).rows
    components = table["reward_components"].to_pylist()
    loudness = [np.sqrt(np.mean(np.square(w, dtype=float))) for group in batch.waveforms for w in group]
    assert components[1] == [{"name": name, "score": loudness[1]} for name in ("loudness", "moody")]
    assert table["reward"].to_pylist()[:2] == [0.0, 0.0], "ranks that cancel out"
    # The reward that failed has no score, and the group, which failed as a whole, none of either.
    assert [part["score"] for part in components[7]] == [loudness[7], None] and table["reward"][7].as_py() is None
    assert components[2] == [{"name": name, "score": None} for name in ("loudness", "moody")]
    assert table["reward_model"][0].as_py() == "rank(1.0*loudness+-1.0*moody)"
    assert table["reward_checkpoint"][0].as_py() == "1.0*none+-1.0*none"


def test_several_rewards_of_held_out_prompts_are_summed(batch: RolloutBatch) -> None:
    """A rank within one prompt's samples could not be compared between prompts, nor between policies."""
    name = f"1*{ROLES['judge']}+1*{ROLES['judge']}"
    worker = RewardWorker({"reward": name}, torch.get_num_threads(), combination="rank")
    expected = [2 * np.sqrt(np.mean(np.square(w, dtype=float))) for group in batch.waveforms for w in group]
    scores = worker.score(batch)
    np.testing.assert_array_equal(scores.rewards, expected)
    assert scores.model == "1.0*loudness+1.0*loudness"


def test_failed_groups_make_no_pairs_and_are_counted(worker: RewardWorker, batch: RolloutBatch) -> None:
    table = worker.score_to_rows(batch).rows
    assert table["reward"].null_count == 6
    pairs, counts = make_pairs(table)
    assert pairs["prompt_id"].to_pylist() == ["p0", "p5"]
    assert (counts.made, counts.tied, counts.dropped) == (2, 0, 4)
    assert sum(counts.reasons.values()) == 4


def test_groups_may_have_different_numbers_of_samples(worker: RewardWorker, batch: RolloutBatch) -> None:
    ragged = RolloutBatch(0, batch.rows.slice(0, 3), [batch.waveforms[0], batch.waveforms[1][:1]], 16_000)
    np.testing.assert_array_equal(worker.score(ragged, "judge").rewards, worker.score(batch, "judge").rewards[:3])


def test_an_unknown_reward_is_named() -> None:
    with pytest.raises(ConfigError, match=r"fake_rewards has no class Missing"):
        RewardWorker({"reward": "tests.actors.fake_rewards:Missing"})
