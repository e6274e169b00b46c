"""The Ray cluster of a job: the one it was submitted to, or one started on this machine for as long as it runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from actors.learner_settings import LearnerSettings
from actors.pool import Pool
from actors.reward import RewardActor, ScoredBatch
from actors.rollout import Chunk, RolloutActor
from jobs.config import RunConfig
from tangoflux.sampling import SamplingParams

QUIET = {
    # Without the dashboard's agent every worker would complain that it cannot export its metrics.
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_LOGGING": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of a cluster on this machine: Ray's and the libraries' chatter stays in Ray's logs."""


@contextmanager
def ray_session(config: RunConfig) -> Iterator[None]:
    """Joins the cluster in ``RAY_ADDRESS`` (``ray job submit`` sets it), or starts Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
        ray.init(
            num_cpus=_logical_cpus(config), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Pools:
    """The pools of a run: rollouts stream into rewards by reference, past the driver."""

    rollouts: Pool
    rewards: Pool

    def score(
        self, chunks: Sequence[Chunk], roles: Sequence[str], keep: Collection[str] = ()
    ) -> Iterator[tuple[Chunk, ScoredBatch]]:
        """Samples the chunks and scores them, as they finish.

        Args:
            roles: which of the reward models hear them.
            keep: ids of the prompts whose waveforms come back.
        """
        sampled = self.rollouts.stream("sample", chunks)
        for chunk, reference in self.rewards.stream("score", sampled, tuple(roles), tuple(keep)):
            yield chunk, ray.get(reference)


@contextmanager
def open_pools(config: RunConfig, policy_dir: Path) -> Iterator[Pools]:
    """Starts the pools; they live until the block ends."""
    rollouts, rewards, sampling = config.rollouts, config.rewards, config.sampling
    params = SamplingParams(sampling.num_steps, sampling.guidance_scale, sampling.negative_prompt)
    device = "cuda" if rollouts.num_gpus else "cpu"
    pools = Pools(
        Pool(
            RolloutActor,
            (policy_dir.resolve(), params, rollouts.threads, rollouts.latents_dtype, 0, device),
            rollouts.workers,
            {"num_cpus": rollouts.num_cpus, "num_gpus": rollouts.num_gpus},
            "rollout worker",
        ),
        Pool(
            RewardActor,
            (rewards.roles, rewards.threads),
            rewards.workers,
            {"num_cpus": rewards.num_cpus, "num_gpus": rewards.num_gpus},
            "reward worker",
        ),
    )
    try:
        yield pools
    finally:
        pools.rollouts.close()
        pools.rewards.close()


def make_room_for_learner(config: RunConfig, pools: Pools) -> None:
    """Gives the pools' resources back unless the learner fits beside them; their next stream takes them again."""
    free, learner = ray.available_resources(), config.learner
    needed = {"CPU": learner.workers * learner.num_cpus, "GPU": learner.workers * learner.num_gpus}
    if any(free.get(name, 0) < amount for name, amount in needed.items()):
        pools.rollouts.release()
        pools.rewards.release()


def learner_settings(config: RunConfig) -> LearnerSettings:
    """The learner's part of the options."""
    return LearnerSettings(objective=config.objective, **config.learner.model_dump())


def _logical_cpus(config: RunConfig) -> int:
    """All cores, and at least what pools and learner ask for: they take turns, so that they need not be paid twice."""
    rollouts, rewards, learner = config.rollouts, config.rewards, config.learner
    asked = sum(part.workers * part.num_cpus for part in (rollouts, rewards, learner))
    return max(os.cpu_count() or 1, math.ceil(asked))
