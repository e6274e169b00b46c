"""The Ray cluster of a job: the one it was submitted to, or one started on this machine for as long as it runs."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.cluster.nodes import free_nodes, this_node
from actors.cluster.placement import Request, place
from actors.learner.settings import AlignmentSettings
from actors.options.pool_size import PoolSize
from actors.options.scheduling import PoolOptions, Processes
from actors.pools.controller import publish_pools
from actors.pools.pool import Pool
from actors.pools.stream import OnGiveUp
from actors.pools.telemetry import Telemetry
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import absolute
from actors.workers.chunk import Chunk
from actors.workers.reward import RewardActor, ScoredBatch
from actors.workers.rollout import RolloutActor
from actors.workers.writer import WriterActor, Written
from jobs.capacity.placement import learner_request
from jobs.options.crpo import RunConfig
from jobs.options.sections import (
    LearnerOptions,
    Objective,
    RolloutOptions,
    SamplingOptions,
    ScoringOptions,
    TrainingOptions,
)
from tangoflux.errors import ResourceError
from tangoflux.sampling_params import SamplingParams


@dataclass(frozen=True)
class Pools:
    """The pools of a run: rollouts stream into rewards, and these into the writer, by reference, past the driver."""

    rollouts: Pool
    rewards: Pool
    writer: Pool
    telemetry: Telemetry = field(default_factory=Telemetry)

    def collect(
        self, chunks: Sequence[Chunk], directory: Path | ObjectStorePath, schema: pa.Schema, on_give_up: OnGiveUp[Chunk]
    ) -> Iterator[tuple[Chunk, Written]]:
        """Samples the chunks, ranks them and writes each as a shard of ``directory``, as they finish.

        Args:
            on_give_up: takes a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, on_give_up=on_give_up)
        ranked = self.rewards.stream("score_to_rows", sampled, schema, on_give_up=on_give_up)
        yield from self.writer.stream("write", ranked, absolute(directory), on_give_up=on_give_up).values()

    def score(
        self, chunks: Sequence[Chunk], roles: Sequence[str], keep: Collection[str], on_give_up: OnGiveUp[Chunk]
    ) -> Iterator[tuple[Chunk, ScoredBatch]]:
        """Samples the chunks and scores them, as they finish.

        Args:
            roles: which of the reward models hear them.
            keep: ids of the prompts whose waveforms come back.
            on_give_up: takes a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, on_give_up=on_give_up)
        yield from self.rewards.stream("score", sampled, tuple(roles), tuple(keep), on_give_up=on_give_up).values()

    def failure_counts(self) -> dict[str, int]:
        """What went wrong in this process's time, and was mended or left out."""
        status = [pool.status() for pool in (self.rollouts, self.rewards, self.writer)]
        return {
            "worker_deaths": sum(pool.deaths for pool in status),
            "chunks_retried": sum(pool.retried for pool in status),
            "chunks_failed": sum(pool.failed for pool in status),
        }

    def poll(self) -> None:
        """Looks after the pools while no stream does."""
        for pool in (self.rollouts, self.rewards, self.writer):
            pool.poll()


@contextmanager
def open_pools(config: RunConfig, policy_dir: Path | ObjectStorePath) -> Generator[Pools]:
    """Starts the pools; they live until the block ends."""
    sampler = rollout_args(policy_dir, config.sampling, config.rollouts)
    with (
        open_pool(RolloutActor, sampler, config.rollouts, "rollout worker") as rollouts,
        reward_pool(config.rewards.roles, config.rewards) as rewards,
        _writer_pool() as writer,
    ):
        pools = Pools(rollouts, rewards, writer)
        with publish_pools(config.run_dir, {"rollouts": rollouts, "rewards": rewards}, pools.telemetry):
            yield pools


@contextmanager
def open_pool(actor_class: Any, args: Sequence[Any], processes: PoolOptions, name: str) -> Generator[Pool]:
    """Starts a pool; it lives until the block ends."""
    resources = {
        "num_cpus": processes.num_cpus,
        "num_gpus": processes.num_gpus,
        "resources": processes.resources,
        "label_selector": processes.label_selector,
    }
    with closing(
        Pool(actor_class, args, PoolSize.parse(processes.workers), resources, name, task_timeout_s=processes.timeout_s)
    ) as pool:
        yield pool


def _writer_pool() -> AbstractContextManager[Pool]:
    """One writer, on the machine of this process, whose file system the run directory is on."""
    here = {"num_cpus": 0, "scheduling_strategy": this_node()}
    return closing(Pool(WriterActor, (), PoolSize(1, 1), here, "shard writer"))


def rollout_args(
    policy_dir: Path | ObjectStorePath, sampling: SamplingOptions, rollouts: RolloutOptions, policy_version: int = 0
) -> tuple[Any, ...]:
    """What a ``RolloutWorker`` is made with."""
    params = SamplingParams(sampling.num_steps, sampling.guidance_scale, sampling.negative_prompt)
    dtype, device = rollouts.latents_dtype, device_of(rollouts)
    return (absolute(policy_dir), params, rollouts.threads, dtype, policy_version, device, rollouts.precision)


def reward_pool(roles: Mapping[str, str], rewards: ScoringOptions) -> AbstractContextManager[Pool]:
    """Starts the pool of reward workers, with a reward model for each role."""
    return open_pool(RewardActor, (dict(roles), rewards.threads, device_of(rewards)), rewards, "reward worker")


def device_of(processes: Processes) -> str:
    """Where the workers compute."""
    return "cuda" if processes.num_gpus else "cpu"


def alignment_settings(objective: Objective, learner: LearnerOptions) -> AlignmentSettings:
    """The learner's part of the options."""
    return AlignmentSettings(objective=objective, **learner.model_dump())


def make_room_for_learner(config: RunConfig, pools: Pools) -> None:
    """Gives the pools' resources back unless the learner fits beside them; their next stream takes them again."""
    pools.poll()
    # Workers that are only starting will yet take what looks free.
    if pools.rollouts.status().pending or pools.rewards.status().pending or not _fits(config.learner):
        pools.rollouts.release()
        pools.rewards.release()


def _fits(learner: TrainingOptions) -> bool:
    """Whether the ranks find a place now, and before them the task in which Ray Data looks at the pairs."""
    nodes = free_nodes()
    try:
        place([learner_request(learner)], nodes)
        place([Request("pairs' reader", 1, {"CPU": 1})], nodes)
    except ResourceError:
        return False
    return True
