"""The examples of docs/rewards.md, a user's own reward and a reward over HTTP, as they stand there, on Ray."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator
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
from actors.workers.messages import RolloutBatch
from actors.workers.reward import RewardActor
from actors.workers.rollout import RolloutWorker
from tangoflux.data.prompts import Prompt
from tangoflux.rewards import load_reward
from tangoflux.sampling_params import SamplingParams
from tests.reward_server import serving

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"


def example(file: str) -> str:
    """The block of the page that begins with the name of this file."""
    found = re.search(rf"```python\n(# {file}\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def batches(tiny_policy_dir: Path) -> list[RolloutBatch]:
    """Two prompts with two samples each, a chunk each."""
    prompts = [Prompt("p1", "a dog barks twice", 0.3), Prompt("p2", "a bell", 0.3)]
    chunks = rollout_chunks(prompts, 1, 0, num_samples=2, chunk_prompts=1)
    return [RolloutWorker(tiny_policy_dir, SamplingParams(1, 1.0)).sample(chunk) for chunk in chunks]


def test_the_documented_reward_scores_in_the_reward_pool(batches: list[RolloutBatch], tmp_path: Path) -> None:
    text = example("my_rewards.py")
    assert len(text.splitlines()) <= 15
    (tmp_path / "my_rewards.py").write_text(text)
    options = {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path)}}}
    pool = Pool(RewardActor, ({"reward": "my_rewards:Quiet"},), PoolSize(1, 1), options, "reward worker")
    try:
        scores = [ray.get(scored) for _, scored in pool.stream("score", batches)]
    finally:
        pool.close()
    expected = sorted(-float(np.abs(group[0]).mean()) for batch in batches for group in batch.waveforms)
    assert sorted(score.rewards[0] for score in scores) == expected
    assert {score.model for score in scores} == {"quiet"}


@contextmanager
def documented_server() -> Generator[str]:
    """The server of the page, on another port; yields its address."""
    names: dict[str, Any] = {"__name__": "reward_server"}
    exec(example("reward_server.py"), names)
    names["Handler"].log_message = lambda *args: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), names["Handler"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/score"
    finally:
        server.shutdown()
        server.server_close()


def test_the_documented_server_scores_in_the_reward_pool(batches: list[RolloutBatch]) -> None:
    """Beside an audio language model, as two components of a reward, and with a key that only the environment has."""
    options = {"num_cpus": 1, "runtime_env": {"env_vars": {"TANGOFLUX_REWARD_API_KEY": "secret"}}}
    with documented_server() as url, serving() as server:
        chat = f"openai:{server.url}/v1#ears"
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
