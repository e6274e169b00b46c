"""Rewards over HTTP in a reward worker: servers that fail or change; test_documented_rewards.py has them on Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.workers.chunk import rollout_chunks
from actors.workers.messages import Destination, RolloutBatch
from actors.workers.reward import RewardWorker
from actors.workers.rollout import RolloutWorker
from actors.workers.writer import WriterWorker
from tangoflux.data.preferences import check_same_weights
from tangoflux.data.prompts import Prompt
from tangoflux.errors import WeightsChangedError
from tangoflux.sampling_params import SamplingParams
from tests.reward_server import RewardServer, serving, status


@pytest.fixture(scope="module")
def batches(tiny_policy_dir: Path) -> list[RolloutBatch]:
    """Two prompts with two samples each, a chunk each."""
    prompts = [Prompt("p1", "a dog barks twice", 0.3), Prompt("p2", "a bell", 0.3)]
    chunks = rollout_chunks(prompts, 1, 0, num_samples=2, chunk_prompts=1)
    return [RolloutWorker(tiny_policy_dir, SamplingParams(1, 1.0)).sample(chunk) for chunk in chunks]


@pytest.fixture
def server() -> Iterator[RewardServer]:
    with serving() as server:
        yield server


def test_a_server_that_fails_costs_its_group_and_says_why(batches: list[RolloutBatch], server: RewardServer) -> None:
    url = f"{server.url}/score"
    worker = RewardWorker({"reward": url})
    server.faults.append(status(400))
    failed, scored = (worker.score(batch) for batch in batches)
    assert failed.failures == [f'{url} refuses the request (400): {{"error": "no\\nluck"}}'] * 2
    assert np.isnan(failed.rewards).all() and np.isfinite(scored.rewards).all()


def test_shards_say_by_which_weights_they_were_scored(
    batches: list[RolloutBatch], server: RewardServer, tmp_path: Path
) -> None:
    destination = Destination(tmp_path / "rollouts", tmp_path / "preferences")
    weights = set[str]()
    for batch, checkpoint in zip(batches, ("w1", "w2"), strict=True):
        check_same_weights(weights)
        server.checkpoint = checkpoint
        worker = RewardWorker({"reward": f"{server.url}/score"})
        weights |= WriterWorker().write(worker.score_to_rows(batch), destination).weights
    with pytest.raises(WeightsChangedError, match="a part of the rollouts was scored by the weights 'w1', another"):
        check_same_weights(weights)


def test_a_worker_that_starts_later_refuses_other_weights(server: RewardServer) -> None:
    url = f"{server.url}/score"
    RewardWorker({"reward": url}, served={url: "w1"})
    server.checkpoint = "w2"
    with pytest.raises(WeightsChangedError, match="has the weights 'w2' now, and had 'w1' when the run started"):
        RewardWorker({"judge": url, "reward": "tests.actors.fake_rewards:Loudness"}, served={url: "w1"})
