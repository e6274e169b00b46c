"""The worker pools of the jobs, and the streams between them."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.cluster.nodes import free_nodes, this_node
from actors.cluster.placement import can_place
from actors.learner.objectives import OPTIONS, make_objective
from actors.learner.settings import AlignmentSettings
from actors.options.pool_size import PoolSize
from actors.options.scheduling import PoolOptions, Processes
from actors.pools.controller import publish_pools
from actors.pools.pool import Pool, share_places
from actors.pools.stream import OnGiveUp
from actors.pools.telemetry import Telemetry
from actors.storage.object_store import Location
from actors.storage.paths import absolute
from actors.workers.chunk import Chunk
from actors.workers.messages import Destination, ScoredPrompts, StoredShard, WrittenShard
from actors.workers.reward import RewardActor
from actors.workers.rollout import RolloutActor
from actors.workers.writer import WriterActor
from jobs.capacity.placement import learner_request
from jobs.options.crpo import RunConfig
from jobs.options.learner import LearnerOptions
from jobs.options.sections import (
    Objective,
    RolloutOptions,
    SamplingOptions,
    ScoringOptions,
)
from tangoflux.sampling_params import SamplingParams


@dataclass(frozen=True)
class Pools:
    """The pools of a run: rollouts stream to the reward workers and on to the writer, by reference, past the driver."""

    rollouts: Pool
    rewards: Pool
    writer: Pool
    telemetry: Telemetry = field(default_factory=Telemetry)

    def collect(
        self, chunks: Sequence[Chunk], destination: Destination, on_give_up: OnGiveUp[Chunk]
    ) -> Iterator[WrittenShard]:
        """Samples the chunks, ranks them, and writes each as a shard of rollouts and one of pairs, as they finish.

        Args:
            on_give_up: called with a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, on_give_up=on_give_up)
        ranked = self.rewards.stream("score_to_rows", sampled, on_give_up=on_give_up)
        for _, written in self.writer.stream("write", ranked, destination, on_give_up=on_give_up).values():
            yield written

    def score_heldout(
        self, chunks: Sequence[Chunk], roles: Sequence[str], audio_ids: Collection[str], on_give_up: OnGiveUp[Chunk]
    ) -> Iterator[tuple[Chunk, ScoredPrompts]]:
        """Samples chunks of held-out prompts and scores them, as they finish.

        Args:
            roles: the reward models that score them.
            audio_ids: ids of the prompts whose audio is returned.
            on_give_up: called with a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, on_give_up=on_give_up)
        stream = self.rewards.stream("score_heldout", sampled, tuple(roles), tuple(audio_ids), on_give_up=on_give_up)
        yield from stream.values()

    def failure_counts(self) -> dict[str, int]:
        """Failures since this process started: recovered ones, and chunks that were given up."""
        status = [pool.status() for pool in (self.rollouts, self.rewards, self.writer)]
        return {
            "worker_deaths": sum(pool.deaths for pool in status),
            "chunks_retried": sum(pool.retried for pool in status),
            "chunks_failed": sum(pool.failed for pool in status),
        }

    def poll(self) -> None:
        """Updates the pools while no stream does."""
        for pool in (self.rollouts, self.rewards, self.writer):
            pool.poll()


@contextmanager
def open_pools(config: RunConfig, policy_dir: Location, served: Mapping[str, str]) -> Generator[Pools]:
    """Starts the pools; they live until the block ends.

    Args:
        served: the checkpoints of rewards over HTTP, as the preflight found them.
    """
    sampler = rollout_args(policy_dir, config.sampling, config.rollouts)
    with (
        open_pool(RolloutActor, sampler, config.rollouts, "rollout worker") as rollouts,
        reward_pool(config.rewards.roles, config.rewards, served) as rewards,
        writer_pool(config.run_dir) as writer,
    ):
        share_places(rollouts, rewards)
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


def writer_pool(directory: Location) -> AbstractContextManager[Pool]:
    """One writer: on this machine for a directory on a disk, which other nodes may not see, else on any node."""
    strategy = this_node() if isinstance(directory, Path) else "SPREAD"
    resources = {"num_cpus": 0, "scheduling_strategy": strategy}
    return closing(Pool(WriterActor, (), PoolSize(1, 1), resources, "shard writer"))


def pair_shards(writer: Pool, parts: Iterable[int], destination: Destination) -> Iterator[WrittenShard]:
    """Summaries of shards of rollouts that were written before; pairs that are missing are written."""
    shards = [StoredShard(destination.rollouts, part) for part in sorted(parts)]
    for _, written in writer.stream("pair", shards, destination).values():
        yield written


def rollout_args(
    policy_dir: Location, sampling: SamplingOptions, rollouts: RolloutOptions, policy_version: int = 0
) -> tuple[Any, ...]:
    """What a ``RolloutWorker`` is made with."""
    params = SamplingParams(sampling.num_steps, sampling.guidance_scale, sampling.negative_prompt)
    dtype, device = rollouts.latents_dtype, device_of(rollouts)
    return (absolute(policy_dir), params, rollouts.threads, dtype, policy_version, device, rollouts.precision)


def reward_pool(
    roles: Mapping[str, str], rewards: ScoringOptions, served: Mapping[str, str]
) -> AbstractContextManager[Pool]:
    """Starts the pool of reward workers, with a reward model for each role."""
    arguments = (dict(roles), rewards.threads, device_of(rewards), rewards.combination, dict(served))
    return open_pool(RewardActor, arguments, rewards, "reward worker")


def device_of(processes: Processes) -> str:
    """Where the workers compute."""
    return "cuda" if processes.num_gpus else "cpu"


def alignment_settings(objective: Objective, learner: LearnerOptions, min_margin: float = 0.0) -> AlignmentSettings:
    """The learner's part of the options.

    Args:
        min_margin: see ``AlignmentSettings``.

    Raises:
        ConfigError: options do not go together, or the objective does not have one that is given.
    """
    made = make_objective(objective, learner.objective_options())
    return AlignmentSettings(objective=made, min_margin=min_margin, **learner.model_dump(exclude=set(OPTIONS)))


def make_room_for_learner(config: RunConfig, pools: Pools) -> None:
    """Gives the pools' resources back unless the learner fits beside them; their next stream takes them again."""
    pools.poll()
    # Workers that are only starting will yet take what looks free.
    pending = pools.rollouts.status().pending or pools.rewards.status().pending
    if pending or not can_place(learner_request(config.learner), free_nodes()):
        pools.rollouts.release()
        pools.rewards.release()
