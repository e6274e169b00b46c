"""The example of a user's own reward, as docs/rewards.md shows it, in the Ray reward pool."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.workers.chunk import rollout_chunks
from actors.workers.reward import RewardActor
from actors.workers.rollout import RolloutWorker
from tangoflux.data.prompts import Prompt
from tangoflux.sampling_params import SamplingParams

PAGE = Path(__file__).parents[3] / "docs" / "rewards.md"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_documented_reward_scores_in_the_reward_pool(tiny_policy_dir: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(# my_rewards.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found and len(found[1].splitlines()) <= 15
    (tmp_path / "my_rewards.py").write_text(found[1])
    prompts = [Prompt("p1", "a dog", 0.3), Prompt("p2", "a bell", 0.3)]
    chunks = rollout_chunks(prompts, 1, 0, num_samples=2, chunk_prompts=1)
    rollouts = [RolloutWorker(tiny_policy_dir, SamplingParams(1, 1.0)).sample(chunk) for chunk in chunks]
    options = {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path)}}}
    pool = Pool(RewardActor, ({"reward": "my_rewards:Quiet"},), PoolSize(1, 1), options, "reward worker")
    try:
        scores = [ray.get(scored) for _, scored in pool.stream("score", rollouts)]
    finally:
        pool.close()
    expected = sorted(-float(np.abs(group[0]).mean()) for rollout in rollouts for group in rollout.waveforms)
    assert sorted(score.rewards[0] for score in scores) == expected
    assert {score.model for score in scores} == {"quiet"}
