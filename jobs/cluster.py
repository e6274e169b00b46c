"""The Ray cluster of a job: the one it was submitted to, or one started on this machine for as long as it runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
import torch

from actors.anywhere import absolute
from actors.chunk import Chunk
from actors.cluster_nodes import this_node
from actors.join import join
from actors.learner_settings import LearnerSettings
from actors.live_pools import announced
from actors.pool import Pool
from actors.pool_size import PoolSize
from actors.quiet import hush
from actors.reward import RewardActor, ScoredBatch
from actors.rollout import RolloutActor
from actors.storage import Place
from actors.stream import SetAside
from actors.telemetry import Telemetry
from actors.writer_worker import WriterActor, Written
from jobs.config import LearnerOptions, Objective, RolloutOptions, RunConfig, SamplingOptions, ScoringOptions
from tangoflux.cli import catch_sigterm
from tangoflux.errors import ResourceError
from tangoflux.sampling import SamplingParams


class Processes(Protocol):
    """The options that every kind of worker has."""

    @property
    def workers(self) -> int | PoolSize: ...  # noqa: D102
    @property
    def num_cpus(self) -> float: ...  # noqa: D102
    @property
    def num_gpus(self) -> float: ...  # noqa: D102


class PlacedProcesses(Processes, Protocol):
    """The options of workers that may ask for nodes of a kind."""

    @property
    def resources(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def label_selector(self) -> dict[str, str]: ...  # noqa: D102


class PoolOptions(PlacedProcesses, Protocol):
    """The options of workers that make a pool."""

    @property
    def timeout_s(self) -> float: ...  # noqa: D102


@contextmanager
def ray_session(*kinds: Processes) -> Generator[None]:
    """Joins the cluster in ``RAY_ADDRESS`` (``ray job submit`` sets it), or starts Ray on this machine.

    A process that has joined or started Ray already goes on with that.

    Args:
        kinds: the workers that there will be.

    Raises:
        ResourceError: the cluster cannot be joined, or this machine has not the GPUs that they ask for.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        join(address)
    else:
        _check_gpus(kinds)
        hush()
        ray.init(
            num_cpus=_logical_cpus(kinds), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    catch_sigterm()
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Pools:
    """The pools of a run: rollouts stream into rewards, and these into the writer, by reference, past the driver."""

    rollouts: Pool
    rewards: Pool
    writer: Pool
    telemetry: Telemetry = field(default_factory=Telemetry)

    def collect(
        self, chunks: Sequence[Chunk], directory: Path | Place, schema: pa.Schema, set_aside: SetAside[Chunk]
    ) -> Iterator[tuple[Chunk, Written]]:
        """Samples the chunks, ranks them and writes each as a shard of ``directory``, as they finish.

        Args:
            set_aside: takes a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, set_aside=set_aside)
        ranked = self.rewards.stream("tabulate", sampled, schema, set_aside=set_aside)
        yield from self.writer.stream("write", ranked, absolute(directory), set_aside=set_aside).values()

    def score(
        self, chunks: Sequence[Chunk], roles: Sequence[str], keep: Collection[str], set_aside: SetAside[Chunk]
    ) -> Iterator[tuple[Chunk, ScoredBatch]]:
        """Samples the chunks and scores them, as they finish.

        Args:
            roles: which of the reward models hear them.
            keep: ids of the prompts whose waveforms come back.
            set_aside: takes a chunk that ended three workers.
        """
        sampled = self.rollouts.stream("sample", chunks, set_aside=set_aside)
        yield from self.rewards.stream("score", sampled, tuple(roles), tuple(keep), set_aside=set_aside).values()

    def mishaps(self) -> dict[str, int]:
        """What went wrong in this process's time, and was mended or left out."""
        status = [pool.status() for pool in (self.rollouts, self.rewards, self.writer)]
        return {
            "worker_deaths": sum(pool.deaths for pool in status),
            "chunks_redone": sum(pool.redone for pool in status),
            "chunks_set_aside": sum(pool.set_aside for pool in status),
        }

    def tend(self) -> None:
        """Looks after the pools while no stream does."""
        for pool in (self.rollouts, self.rewards, self.writer):
            pool.tend()


@contextmanager
def open_pools(config: RunConfig, policy_dir: Path | Place) -> Generator[Pools]:
    """Starts the pools; they live until the block ends."""
    sampler = rollout_args(policy_dir, config.sampling, config.rollouts)
    with (
        open_pool(RolloutActor, sampler, config.rollouts, "rollout worker") as rollouts,
        reward_pool(config.rewards.roles, config.rewards) as rewards,
        _writer_pool() as writer,
    ):
        pools = Pools(rollouts, rewards, writer)
        with announced(config.run_dir, {"rollouts": rollouts, "rewards": rewards}, pools.telemetry):
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
    policy_dir: Path | Place, sampling: SamplingOptions, rollouts: RolloutOptions, policy_version: int = 0
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


def learner_settings(objective: Objective, learner: LearnerOptions) -> LearnerSettings:
    """The learner's part of the options."""
    return LearnerSettings(objective=objective, **learner.model_dump())


def _check_gpus(kinds: Sequence[Processes]) -> None:
    """Ray would wait without a word and without an end.

    Raises:
        ResourceError: a process asks for more GPUs than this machine has.
    """
    asked, there = max((kind.num_gpus for kind in kinds), default=0), torch.cuda.device_count()
    if asked > there:
        raise ResourceError(
            f"a worker asks for {asked:g} GPUs and this machine has {there}: lower --rollout-num-gpus, "
            "--reward-num-gpus, --learner-num-gpus or --codec-num-gpus, or start on a cluster that has them"
        )


def _logical_cpus(kinds: Sequence[Processes]) -> int:
    """All cores, and at least what all ask for: they take turns, so that they need not be paid twice."""
    asked = sum(PoolSize.parse(kind.workers).most * kind.num_cpus for kind in kinds)
    return max(os.cpu_count() or 1, math.ceil(asked))
