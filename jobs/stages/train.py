"""Trains for ``jobs/train.py``: stored or users' pairs to a new policy."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.cluster.session import ray_session
from actors.learner.checkpoint import load_tensors
from actors.learner.launch import train
from actors.learner.settings import LearnerResult
from actors.storage.atomic import explain_disk_errors
from actors.storage.json_lines import JsonLines
from actors.storage.policy_store import PolicyStore
from actors.storage.run_lock import RunLock
from actors.storage.shards import ShardWriter
from actors.workers.codec import CodecActor, PairLatents, pair_chunks
from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.placement import place_learner
from jobs.options.sections import LearnerOptions
from jobs.options.train import TrainJob
from jobs.reporting.display import Display
from jobs.reporting.formatting import format_number
from jobs.reporting.tables import format_table
from jobs.stages.output_dir import FLAG, check_new, find_shards
from jobs.stages.pools import device_of, learner_settings, open_pool
from jobs.stages.run_dir import check_writable
from tangoflux.data.pairs import RatedPair, load_pairs, pair_table
from tangoflux.data.records import preference_schema
from tangoflux.errors import ConfigError
from tangoflux.model.adapter_files import check_adapter
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.checkpoint import read_json
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig

ENCODED_AT_ONCE = 16
"""Pairs of a codec worker's task, and rows of a shard."""

ITERATION = 1

STEPS = "steps.jsonl"
"""Beside the policy: what each optimiser step measured."""


@dataclass(frozen=True)
class Inputs:
    """What the job works on: stored pairs, or a user's; ``count`` of either."""

    policy_dir: Path
    rated: list[RatedPair]
    count: int


def run(config: TrainJob) -> None:
    """Checks what can be checked, encodes the pairs where they are a user's, trains, and writes the new policy."""
    check_writable(config.output, FLAG)
    check_new(config.output)
    inputs = read_inputs(config)
    with Display() as display, workspace(config.output) as directory, ray_session(config.codec, config.learner):
        display.note(place_learner(config.learner))
        display.note(f"{inputs.count} pairs from {config.preferences or config.pairs}, to train {config.init_policy}")
        preferences = config.preferences or encode(config, inputs, directory / "preferences", display)
        result = learn(config, inputs, preferences, directory, display)
        publish(config, inputs, result, directory)
        display.note(f"{figures(result)}\n\npolicy  {config.output}")


def read_inputs(config: TrainJob) -> Inputs:
    """Looks at the policy and the pairs.

    Raises:
        TangoFluxError: they cannot be used, or there are too few pairs for the options.
    """
    policy_dir = find_directory(config.init_policy)
    read_model_facts(policy_dir)
    check_adapter(policy_dir, learner_settings(config.objective, config.learner).lora)
    rated: list[RatedPair] = []
    if config.pairs:
        policy = PolicyConfig.from_dict(read_json(policy_dir / "config.json"))
        rated = load_pairs(config.pairs, policy, AutoencoderConfig.read(policy_dir))
        count = len(rated)
    else:
        assert config.preferences is not None
        count = sum(shard.rows for shard in find_shards(config.preferences, "--preferences").shards().values())
    check_steps(config.learner, count)
    return Inputs(policy_dir, sorted(rated, key=lambda pair: pair.prompt.id), count)


def trained_pairs(learner: LearnerOptions, count: int) -> int:
    """Pairs that are not held out."""
    return count - min(learner.heldout_pairs, count // 8)


def steps(learner: LearnerOptions, count: int) -> int:
    """Optimiser steps of the training."""
    return learner.epochs * -(-trained_pairs(learner, count) // learner.batch_size)


def check_steps(learner: LearnerOptions, count: int) -> None:
    """Whether there are pairs enough.

    Raises:
        ConfigError: there is less than one for each rank, or the learning rate would never be reached.
    """
    at_once = min(learner.batch_size, trained_pairs(learner, count))
    if at_once < learner.workers:
        raise ConfigError(
            f"{at_once} pairs in a batch are less than one for each of --learner-workers {learner.workers}"
        )
    total = steps(learner, count)
    if total <= learner.warmup_steps:
        raise ConfigError(
            f"--warmup-steps {learner.warmup_steps} is not below the {total} steps of {count} pairs, so the learning "
            "rate would never be reached; lower it, or raise --epochs"
        )


@contextmanager
def workspace(output: Path) -> Generator[Path]:
    """A hidden directory beside the output, gone at the end: the output is whole or absent.

    Raises:
        ConfigError: another process trains for the same output; names it.
    """
    directory = output.absolute().with_name(f".{output.name}.training")
    work = directory / "work"
    try:
        with RunLock(directory):
            shutil.rmtree(work, ignore_errors=True)  # of one that was killed
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        with suppress(OSError):
            directory.rmdir()  # unless another process has it


def encode(config: TrainJob, inputs: Inputs, directory: Path, display: Display) -> Path:
    """The user's pairs as preference shards in ``directory``."""
    facts = read_model_facts(inputs.policy_dir)
    schema = preference_schema(facts.audio_seq_len, facts.latent_channels)
    args = (inputs.policy_dir.resolve(), config.codec.threads, device_of(config.codec))
    shards = ShardWriter(directory)
    with (
        display.stage(0, "encoding", inputs.count, "pairs") as stage,
        open_pool(CodecActor, args, config.codec, "codec worker") as pool,
    ):
        for chunk, value in pool.stream("encode", pair_chunks(inputs.rated, ENCODED_AT_ONCE)).values():
            latents: PairLatents = value
            shards.write(chunk.part, pair_table(chunk.pairs, latents.chosen, latents.rejected, schema))
            stage.advance(len(chunk.pairs))
    return directory


def learn(config: TrainJob, inputs: Inputs, preferences: Path, directory: Path, display: Display) -> LearnerResult:
    """Trains; the weights and a line a step are in ``directory`` then."""
    settings = learner_settings(config.objective, config.learner)
    with display.stage(0, "learner", steps(config.learner, inputs.count), "steps") as stage:
        steps_log = JsonLines(directory / STEPS)

        def on_step(step: Mapping[str, Any]) -> None:
            steps_log.append(step)
            stage.advance(loss=step["loss"], margin=step["margin"])

        return train(preferences, inputs.policy_dir, directory, settings, ITERATION, config.seed, on_step)


def publish(config: TrainJob, inputs: Inputs, result: LearnerResult, directory: Path) -> None:
    """Makes the output: the policy in the published layout, and beside it how it came about."""
    lora = learner_settings(config.objective, config.learner).lora
    weights = load_tensors(result.weights)
    policy = PolicyStore(directory / "policies").publish(1, inputs.policy_dir, weights, lora)
    measured = {key: value for key, value in dataclasses.asdict(result).items() if key != "weights"}
    options = config.model_dump(mode="json", exclude={"output"})
    (policy / "training.json").write_text(json.dumps({"options": options, **measured}, indent=2) + "\n")
    (directory / STEPS).rename(policy / STEPS)
    with explain_disk_errors(config.output):
        policy.rename(config.output)


def figures(result: LearnerResult) -> str:
    """The learner's figures before and after, as a table."""
    rows = [("", "start", "end")]
    for name, key in (
        ("winner loss", "winner"),
        ("loser loss", "loser"),
        ("margin", "margin"),
        ("implicit accuracy", "implicit_accuracy"),
    ):
        rows.append((name, format_number(result.start[key]), format_number(result.end[key])))
    rows.append(("held-out pair accuracy", "", format_number(result.heldout_pair_accuracy)))
    return f"{result.pairs} pairs, {result.steps} steps\n\n{format_table(rows)}"
