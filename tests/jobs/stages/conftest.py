"""A run's stages with real pools, shards and policies; only the models and the learner are fakes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray

import jobs.stages.iteration
from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.storage.policy_store import PolicyStore
from actors.workers.writer import WriterActor
from jobs.options.crpo import CONFIG_FILE, load_config
from jobs.reporting.display import Display
from jobs.reporting.trackers import Trackers
from jobs.stages.iteration import Run
from jobs.stages.pools import Pools
from jobs.stages.preflight import run_preflight
from jobs.stages.run_dir import open_run_dir
from jobs.stages.run_storage import RunStorage
from tests.jobs.stages.fake_learner import FakeLearner
from tests.jobs.stages.fake_workers import Sampler, Scorer


@pytest.fixture(scope="module")
def pools(ray_session: None) -> Iterator[Pools]:
    cpu = {"num_cpus": 0.1}
    rollouts, rewards, writer = (
        Pool(actor_class, (), PoolSize(1, 1), cpu, name)
        for actor_class, name in (
            (ray.remote(Sampler), "rollout worker"),
            (ray.remote(Scorer), "reward worker"),
            (WriterActor, "shard writer"),
        )
    )
    yield Pools(rollouts, rewards, writer)
    for pool in (rollouts, rewards, writer):
        pool.close()


@pytest.fixture
def start(tmp_path: Path, tiny_policy_dir: Path, pools: Pools) -> Callable[..., Run]:
    """Starts the run of this test (again) as a driver does, with other options if need be."""

    def start(
        *options: str, heldout: Sequence[str] = ("a", "bb", "ccc", "dddd"), display: Display | None = None
    ) -> Run:
        prompts, heldout_prompts = tmp_path / "prompts.txt", tmp_path / "heldout.txt"
        prompts.write_text("".join(f"sound number {number}\n" for number in range(12)))
        heldout_prompts.write_text("".join(f"{text}\n" for text in heldout))
        run_dir = tmp_path / "run"
        values = {
            **{"run-dir": run_dir, "init-policy": tiny_policy_dir, "reward": "tests.integration.rewards:Loudness"},
            **{"prompts": prompts, "heldout-prompts": heldout_prompts, "heldout-num-prompts": len(heldout)},
            **{"prompts-per-iteration": 6, "num-samples": 2, "rollout-chunk-prompts": 2, "duration-s": 0.5},
            **{"judge": "none", "detector": "none", "num-audio-samples": 0, "max-dropped-share": 0.5},
            **{"batch-size": 2, "epochs": 1, "warmup-steps": 1},
        }
        flags = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
        config = load_config([*flags, *options, "--resume", str((run_dir / CONFIG_FILE).exists())])
        inputs = run_preflight(config)
        open_run_dir(config, run_dir)
        PolicyStore(run_dir / "policies").publish(0, tiny_policy_dir)
        return Run(
            config, RunStorage(run_dir, run_dir), inputs, pools, display or Display(2, io.StringIO()), Trackers()
        )

    return start


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> FakeLearner:
    learner = FakeLearner()
    monkeypatch.setattr(jobs.stages.iteration, "train", learner)
    return learner
