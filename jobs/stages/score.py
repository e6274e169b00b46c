"""Scores for ``jobs/score.py``: stored rollouts to scored ones and preference pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from actors.cluster.session import ray_session
from actors.pools.pool import share_places
from actors.storage.shards import ShardWriter, shards_at
from actors.workers.codec import CodecActor
from actors.workers.messages import Destination, StoredShard
from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.plan import check_disk
from jobs.options.score import ScoreJob
from jobs.reporting.display import Display
from jobs.stages.output_dir import check_output, find_shards, open_output
from jobs.stages.pools import device_of, open_pool, pair_shards, reward_pool, writer_pool
from tangoflux.data.preferences import PairCounts, check_dropped_share, check_same_weights, describe_counts
from tangoflux.data.records import SORT_KEYS, latents_shape, rollout_schema
from tangoflux.errors import DataError
from tangoflux.model.layout import find_directory
from tangoflux.rewards.registry import check_reward

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Inputs:
    """What the job works on.

    Attributes:
        groups: how many prompts all shards have together.
        served: the checkpoints of rewards over HTTP, by address.
    """

    shards: ShardWriter
    policy_dir: Path
    groups: int
    served: dict[str, str]


def run(config: ScoreJob) -> None:
    """Checks what can be checked, then scores the shards that are not scored yet and writes missing pairs."""
    check_output(config, config.output, config.output / CONFIG_FILE)
    inputs = read_inputs(config)
    output = config.output.resolve()
    destination = Destination(output / "rollouts", output / "preferences", config.rewards.min_margin)
    missing = inputs.shards.parts() - shards_at(destination.rollouts).parts()
    check_disk(bytes_of(inputs, missing), config.output, "choose another --output")
    with (
        Display() as display,
        ray_session(config.codec, config.rewards),
        open_output(config, config.output, config.output / CONFIG_FILE),
    ):
        display.note(f"{inputs.groups} prompts' samples scored by {config.rewards.name}")
        counts = score(config, inputs, destination, display)
        display.note(describe_counts(counts, config.rewards.min_margin))
        display.note(f"rollouts     {config.output / 'rollouts'}\npreferences  {config.output / 'preferences'}")


def read_inputs(config: ScoreJob) -> Inputs:
    """Looks at the reward model, the policy and the shards.

    Raises:
        TangoFluxError: one of them cannot be used.
    """
    served = check_reward(config.rewards.name)
    policy_dir = find_directory(config.policy)
    channels = read_model_facts(policy_dir).latent_channels
    shards = find_shards(config.rollouts, "--rollouts")
    for file in shards.files():
        check_schema(file, channels)
    group_keys = list(SORT_KEYS[:2])
    return Inputs(shards, policy_dir, len(shards.read(group_keys).group_by(group_keys).aggregate([])), served)


def check_schema(file: Path, channels: int) -> None:
    """Whether a shard holds rollouts that the codec can decode.

    Raises:
        DataError: it does not.
    """
    schema = pq.read_schema(file)
    missing = [name for name in rollout_schema(1, 1).names if name not in schema.names]
    if missing:
        raise DataError(f"{file} contains no rollouts: it has no columns {', '.join(missing)}")
    stored = latents_shape(schema.field("latents"))[1]
    if stored != channels:
        raise DataError(
            f"{file} holds latents of {stored} channels, the codec of --policy has {channels}: name its own"
        )


def bytes_of(inputs: Inputs, parts: Collection[int]) -> int:
    """What the scored shards and their pairs take on disk: a pair is two of at least two rows of a group."""
    return 2 * sum(shard.bytes for part, shard in inputs.shards.shards().items() if part in parts)


def score(config: ScoreJob, inputs: Inputs, destination: Destination, display: Display) -> PairCounts:
    """Scores the shards that are not scored yet and writes the pairs of all; returns what became of the groups.

    Raises:
        RewardError: the reward fails too often.
    """
    weights = set[str]()
    counts, done = PairCounts(), shards_at(destination.rollouts).parts()
    shards = inputs.shards.shards()
    missing = [StoredShard(config.rollouts.resolve(), part) for part in shards if part not in done]
    samples = sum(shards[shard.part].rows for shard in missing)
    with writer_pool(config.output) as writer:
        if done:
            with display.stage(0, "pairs", len(done), "shards") as stage:
                for shard in pair_shards(writer, done, destination):
                    counts += shard.counts
                    weights |= shard.weights
                    stage.advance()
        if missing:
            with (
                display.stage(0, "scoring", samples) as stage,
                open_pool(CodecActor, codec_args(config, inputs.policy_dir), config.codec, "codec worker") as codec,
                reward_pool({"reward": config.rewards.name}, config.rewards, inputs.served) as rewards,
            ):
                share_places(codec, rewards)
                scored = rewards.stream("score_to_rows", codec.stream("decode", missing))
                for _, shard in writer.stream("write", scored, destination).values():
                    counts += shard.counts
                    weights |= shard.weights
                    check_same_weights(weights)
                    check_dropped_share(counts, config.rewards.max_dropped_share, inputs.groups)
                    stage.advance(shard.rows)
    check_dropped_share(counts, config.rewards.max_dropped_share)
    return counts


def codec_args(config: ScoreJob, policy_dir: Path) -> tuple[object, ...]:
    """What a ``CodecWorker`` is made with."""
    return policy_dir.resolve(), config.codec.threads, device_of(config.codec)
