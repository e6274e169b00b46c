"""Scores for ``jobs/score.py``: stored rollouts to scored ones and preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.cluster.session import ray_session
from actors.storage.shards import ShardWriter
from actors.workers.codec import CodecActor, StoredChunk, stored_chunk
from actors.workers.reward import ScoredBatch
from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.plan import check_disk
from jobs.options.score import ScoreJob
from jobs.options.sections import ScoringOptions
from jobs.reporting.display import Display
from jobs.stages.output_dir import check_output, find_shards, open_output
from jobs.stages.pools import device_of, open_pool, reward_pool
from tangoflux.data.preferences import PairCounts, check_dropped_share, make_pairs
from tangoflux.data.records import SORT_KEYS, latents_shape, rollout_schema
from tangoflux.errors import DataError
from tangoflux.model.layout import find_directory
from tangoflux.rewards.registry import check_reward

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Inputs:
    """What the job works on; ``groups`` is how many prompts all shards have together."""

    shards: ShardWriter
    policy_dir: Path
    groups: int


def run(config: ScoreJob) -> None:
    """Checks what can be checked, scores the shards that are not scored yet, and pairs those not paired yet."""
    check_output(config, config.output, config.output / CONFIG_FILE)
    inputs = read_inputs(config)
    scored, preferences = (ShardWriter(config.output / name) for name in ("rollouts", "preferences"))
    missing = sorted(inputs.shards.parts() - scored.parts())
    check_disk(bytes_of(inputs, missing), config.output, "choose another --output")
    with open_output(config, config.output, config.output / CONFIG_FILE), Display() as display:
        display.note(f"{inputs.groups} prompts' samples heard by {config.rewards.name}")
        if missing:
            with ray_session(config.codec, config.rewards):
                score(config, inputs, missing, scored, display)
        with display.stage(0, "pairs"):
            counts = pair(scored, preferences, config.rewards)
        display.note(describe_counts(counts))
        display.note(f"rollouts     {scored.directory}\npreferences  {preferences.directory}")


def read_inputs(config: ScoreJob) -> Inputs:
    """Looks at the reward model, the policy and the shards.

    Raises:
        TangoFluxError: one of them cannot be used.
    """
    check_reward(config.rewards.name)
    policy_dir = find_directory(config.policy)
    channels = read_model_facts(policy_dir).latent_channels
    shards = find_shards(config.rollouts, "--rollouts")
    for file in shards.files():
        check_schema(file, channels)
    group_keys = list(SORT_KEYS[:2])
    return Inputs(shards, policy_dir, len(shards.read(group_keys).group_by(group_keys).aggregate([])))


def check_schema(file: Path, channels: int) -> None:
    """Whether a shard holds rollouts that the codec can decode.

    Raises:
        DataError: it does not.
    """
    schema = pq.read_schema(file)
    missing = [name for name in rollout_schema(1, 1).names if name not in schema.names]
    if missing:
        raise DataError(f"{file} holds no rollouts: it lacks the columns {', '.join(missing)}")
    stored = latents_shape(schema.field("latents"))[1]
    if stored != channels:
        raise DataError(
            f"{file} holds latents of {stored} channels, the codec of --policy has {channels}: name its own"
        )


def bytes_of(inputs: Inputs, parts: Sequence[int]) -> int:
    """What the scored shards and their pairs take on disk: a pair is two of at least two rows of a group."""
    return 2 * sum(shard.bytes for part, shard in inputs.shards.shards().items() if part in parts)


def score(config: ScoreJob, inputs: Inputs, parts: Sequence[int], scored: ShardWriter, display: Display) -> None:
    """Scores the shards and stores each, in the order in which they finish.

    Raises:
        RewardError: the reward fails too often.
    """
    failures = sum((make_pairs(table)[1] for _, table in scored.tables()), PairCounts())
    samples = sum(shard.rows for part, shard in inputs.shards.shards().items() if part in parts)
    with (
        display.stage(0, "scoring", samples) as stage,
        open_pool(CodecActor, codec_args(config, inputs.policy_dir), config.codec, "codec worker") as codec,
        reward_pool({"reward": config.rewards.name}, config.rewards) as rewards,
    ):
        waveforms = codec.stream("decode", stored_chunks(inputs.shards, parts))
        for stored, batch in rewards.stream("score", waveforms, ("reward",)).values():
            table = scored_table(stored.table, batch)
            scored.write(stored.part, table)
            failures += make_pairs(table)[1]
            check_dropped_share(failures, config.rewards.max_dropped_share, inputs.groups)
            stage.advance(len(table))


def codec_args(config: ScoreJob, policy_dir: Path) -> tuple[object, ...]:
    """What a ``CodecWorker`` is made with."""
    return policy_dir.resolve(), config.codec.threads, device_of(config.codec)


def stored_chunks(shards: ShardWriter, parts: Sequence[int]) -> Iterator[StoredChunk]:
    """The shards, read as the workers take them, in canonical order."""
    whole = shards.shards()
    for part in parts:
        table = shards.read_shard(whole[part], verify=True).sort_by([(name, "ascending") for name in SORT_KEYS])
        yield stored_chunk(part, table, f"{shards.directory} shard {part}")


def scored_table(table: pa.Table, batch: ScoredBatch) -> pa.Table:
    """The rows with their rewards; all else in them stays."""
    scores = batch.scores["reward"]
    failures = [failure for group in scores.failures for failure in group]
    rewards = scores.rewards.ravel().tolist()
    columns = {
        "reward": [None if failure else reward for reward, failure in zip(rewards, failures, strict=True)],
        "reward_model": [scores.model] * len(table),
        "reward_checkpoint": [scores.checkpoint] * len(table),
        "failure": failures,
        "rms": batch.rms.ravel().tolist(),
        "peak": batch.peak.ravel().tolist(),
    }
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def pair(scored: ShardWriter, preferences: ShardWriter, rewards: ScoringOptions) -> PairCounts:
    """Writes the missing shards of pairs; returns what became of all groups.

    Raises:
        RewardError: too many groups lack a reward.
    """
    counts = PairCounts()
    for part, table in scored.tables():
        pairs, of_part = make_pairs(table, rewards.min_margin)
        preferences.write(part, pairs)
        counts += of_part
    check_dropped_share(counts, rewards.max_dropped_share)
    return counts


def describe_counts(counts: PairCounts) -> str:
    """``pairs made 90, tied 2, dropped 4 (4 x ValueError: ...)``."""
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.reasons.items())
    return f"pairs made {counts.made}, tied {counts.tied}, dropped {counts.dropped}" + (
        f" ({reasons})" if reasons else ""
    )
