"""Rewards over HTTP in the Ray reward pool: the example of docs/rewards.md, and servers that fail or change."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.workers.chunk import rollout_chunks
from actors.workers.messages import Destination, RolloutBatch
from actors.workers.reward import RewardActor, RewardWorker
from actors.workers.rollout import RolloutWorker
from actors.workers.writer import WriterWorker
from tangoflux.data.preferences import check_same_weights
from tangoflux.data.prompts import Prompt
from tangoflux.errors import WeightsChangedError
from tangoflux.rewards import load_reward
from tangoflux.sampling_params import SamplingParams
from tests.reward_server import RewardServer, serving, status

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"


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


@contextmanager
def documented_server() -> Generator[str]:
    """The server of the page, on another port; yields its address."""
    found = re.search(r"```python\n(# reward_server.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    names: dict[str, Any] = {"__name__": "reward_server"}
    exec(found[1], names)
    names["Handler"].log_message = lambda *args: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), names["Handler"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/score"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_documented_server_scores_in_the_reward_pool(batches: list[RolloutBatch], server: RewardServer) -> None:
    """Beside an audio language model, as two components of a reward, and with a key that only the environment has."""
    chat = f"openai:{server.url}/v1#ears"
    options = {"num_cpus": 1, "runtime_env": {"env_vars": {"TANGOFLUX_REWARD_API_KEY": "secret"}}}
    with documented_server() as url:
        arguments = ({"reward": f"0.5*{url}+0.5*{chat}"}, 1, "cpu", "normalised")
        pool = Pool(RewardActor, arguments, PoolSize(1, 1), options, "reward worker")
        try:
            shards = [ray.get(shard) for _, shard in pool.stream("score_to_rows", batches)]
        finally:
            pool.close()
    expected = load_reward("miniature-clap")
    for shard in shards:
        batch = batches[shard.part]
        [(_, text, waveforms)] = batch.groups()
        rows = shard.rows.to_pylist()
        scores = [row["reward_components"][0]["score"] for row in rows]
        np.testing.assert_allclose(scores, expected([text] * 2, waveforms, batch.sample_rate_hz), atol=1e-4)
        assert [row["reward_components"][1] for row in rows] == [{"name": chat, "score": pytest.approx(0.5)}] * 2
        assert rows[0]["reward_checkpoint"] == f"0.5*{expected.checkpoint}+0.5*org/ears-7b f1"
        assert sorted(row["reward"] for row in rows) == pytest.approx([-0.5, 0.5])
        assert "secret" not in str([{**row, "latents": None} for row in rows])
    assert {headers.get("Authorization") for headers in server.headers} == {"Bearer secret"}


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
