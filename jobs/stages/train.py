"""The work of ``jobs/train.py``: aligns a policy to stored preference pairs or to a user's pairs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.cluster.session import ray_session
from actors.learner.alignment.reading import (
    check_channels,
    check_not_empty,
    count_groups,
    have_rewards,
    holds_rollouts,
)
from actors.learner.checkpoint import STATE, load_tensors
from actors.learner.launch import train
from actors.learner.objectives import Objective
from actors.learner.schedule import check_warmup, num_steps, num_trained
from actors.learner.settings import LearnerResult
from actors.storage.atomic import explain_disk_errors
from actors.storage.json_lines import JsonLines
from actors.storage.paths import remove_below
from actors.storage.policy_files import WEIGHTS
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from actors.workers.codec import CodecActor, pair_chunks
from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.placement import place_learner
from jobs.options.learner import LearnerOptions
from jobs.options.train import TrainJob
from jobs.reporting.display import Display
from jobs.reporting.formatting import format_number
from jobs.reporting.tables import format_table
from jobs.stages.output_dir import check_output, find_shards, open_output
from jobs.stages.pools import alignment_settings, device_of, open_pool, writer_pool
from tangoflux.data.pairs import RatedPair, load_pairs
from tangoflux.data.records import preference_schema
from tangoflux.errors import ConfigError, DataError
from tangoflux.model.adapter_files import check_adapter
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.checkpoint import read_json
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig

ENCODED_AT_ONCE = 16
"""Pairs of a codec worker's task, which are the rows of a shard."""

ITERATION = 1

WORK = ".training"
"""A directory in the output with all that is not the policy, removed at the end."""

CONFIG_FILE = "config.yaml"
"""The options, in ``WORK``."""

STEPS = "steps.jsonl"
"""The metrics of each optimiser step, next to the policy's files."""


@dataclass(frozen=True)
class Inputs:
    """What the job works on.

    Attributes:
        rated: a user's pairs, by prompt id; empty for stored pairs.
        count: pairs or groups, held-out ones included.
        steps: optimiser steps.
    """

    policy_dir: Path
    rated: list[RatedPair]
    count: int
    steps: int


def run(config: TrainJob) -> None:
    """Checks the input, encodes a user's pairs, trains, and writes the new policy."""
    check_output(config, config.output, config.output / WORK / CONFIG_FILE)
    inputs = read_inputs(config)
    with Display() as display, ray_session(config.codec, config.learner), workspace(config) as directory:
        display.note(place_learner(config.learner))
        source = config.preferences or config.rollouts
        what = "groups" if config.rollouts else "pairs"
        display.note(f"{inputs.count} {what} from {source or config.pairs}, to train {config.init_policy}")
        result = learn(config, inputs, source or encode(config, inputs, directory, display), directory, display)
        publish(config, inputs, result, directory)
        display.note(f"{figures(result)}\n\npolicy  {config.output}")


def read_inputs(config: TrainJob) -> Inputs:
    """Reads the policy's configuration and counts the pairs; reads a user's pairs without their audio.

    Raises:
        TangoFluxError: policy or pairs cannot be used, or there are too few pairs for the options.
    """
    policy_dir = find_directory(config.init_policy)
    facts = read_model_facts(policy_dir)
    settings = alignment_settings(config.objective, config.learner)
    check_adapter(policy_dir, settings.lora)
    rated: list[RatedPair] = []
    if config.pairs:
        policy = PolicyConfig.from_dict(read_json(policy_dir / "config.json"))
        rated = load_pairs(config.pairs, policy, AutoencoderConfig.read(policy_dir))
        count = len(rated)
    else:
        count = count_stored(config, settings.objective, facts.latent_channels)
    steps = count_steps(config.learner, count, trained_share(config))
    return Inputs(policy_dir, sorted(rated, key=lambda pair: pair.prompt.id), count, steps)


def count_stored(config: TrainJob, objective: Objective, channels: int) -> int:
    """The stored pairs, or the groups of stored rollouts from which something can be learned.

    Raises:
        DataError: there are none, or they are of another kind or another policy.
        ConfigError: the objective wants more samples than a group has.
    """
    source, flag = (config.rollouts, "--rollouts") if config.rollouts else (config.preferences, "--preferences")
    assert source is not None
    shards = find_shards(source, flag)
    check_not_empty(shards)
    if config.rollouts:
        count, group_size = count_groups(shards)
        objective.check_group_size(group_size)
    elif holds_rollouts(shards):
        raise DataError(f"--preferences {source} holds rollouts; give it as --rollouts")
    else:
        count = sum(shard.rows for shard in shards.shards().values())
    check_channels(shards, channels)
    return count


def trained_share(config: TrainJob) -> float:
    """``--group-share``, or 1 for pairs that people chose: they have no margins."""
    chosen = config.pairs or (config.preferences and not have_rewards(find_shards(config.preferences, "--preferences")))
    return 1.0 if chosen else config.learner.group_share


def count_steps(learner: LearnerOptions, pairs: int, share: float) -> int:
    """The optimiser steps of a training on ``share`` of ``pairs``, held-out ones included.

    Raises:
        ConfigError: a batch has fewer pairs than there are ranks, or the learning rate would never reach its peak.
    """
    trained = num_trained(pairs, learner.heldout_pairs, share)
    in_batch = min(learner.batch_size, trained)
    if in_batch < learner.workers:
        raise ConfigError(
            f"{in_batch} pairs in a batch are less than one for each of --learner-workers {learner.workers}"
        )
    steps = num_steps(trained, learner.batch_size, learner.epochs)
    check_warmup(learner.warmup_steps, steps, f"{pairs} pairs")
    return steps


@contextmanager
def workspace(config: TrainJob) -> Generator[Path]:
    """``WORK``, for one process at a time. If the block fails, it is kept if there is something to resume from.

    It is in the output directory itself, which need not be replaced then: it may be a link or a mount point.

    Raises:
        ConfigError: another process, which the error names, trains for the same output.
    """
    work, is_new = config.output / WORK, not config.output.exists()
    try:
        with open_output(config, config.output, work / CONFIG_FILE):
            try:
                yield work
            except BaseException as error:
                if any(work.glob(f"checkpoints/*/*/{STATE}")) or any(work.glob("preferences-*")):
                    error.add_note(f"what was computed is kept in {work}")
                else:
                    shutil.rmtree(work)
                raise
            shutil.rmtree(work)
    finally:
        if is_new:
            with suppress(OSError):
                config.output.rmdir()  # unless something is kept


def encode(config: TrainJob, inputs: Inputs, work: Path, display: Display) -> Path:
    """Writes the user's pairs as preference shards below ``work``, if they are not there; returns their directory."""
    assert config.pairs is not None
    facts = read_model_facts(inputs.policy_dir)
    schema = preference_schema(facts.audio_seq_len, facts.latent_channels)
    args = (inputs.policy_dir.resolve(), config.codec.threads, device_of(config.codec))
    # Named after the content: shards of an earlier attempt count if the file is still the same.
    directory = work / f"preferences-{hashlib.sha256(config.pairs.read_bytes()).hexdigest()[:16]}"
    done = ShardWriter(directory).shards()
    missing = [chunk for chunk in pair_chunks(inputs.rated, ENCODED_AT_ONCE) if chunk.part not in done]
    if not missing:
        return directory
    with (
        display.stage(0, "encoding", inputs.count, "pairs") as stage,
        open_pool(CodecActor, args, config.codec, "codec worker") as pool,
        writer_pool(directory) as writer,
    ):
        stage.skip(sum(shard.rows for shard in done.values()))
        encoded = pool.stream("encode", missing, schema)
        for _, rows in writer.stream("write_rows", encoded, directory).values():
            stage.advance(rows)
    return directory


def learn(config: TrainJob, inputs: Inputs, data: Path, directory: Path, display: Display) -> LearnerResult:
    """Trains; writes the weights and the metrics of each step to ``directory``."""
    settings = alignment_settings(config.objective, config.learner)
    with display.stage(0, "learner", inputs.steps, "steps") as stage:
        (directory / STEPS).unlink(missing_ok=True)  # a resumed training reports all its steps
        steps_log = JsonLines(directory / STEPS)

        def on_step(step: Mapping[str, Any]) -> None:
            steps_log.append(step)
            stage.advance(**{name: step[name] for name in ("loss", "margin") if name in step})

        return train(data, inputs.policy_dir, directory, settings, ITERATION, config.seed, on_step)


def publish(config: TrainJob, inputs: Inputs, result: LearnerResult, directory: Path) -> None:
    """Writes the output: the policy in the published layout, with the options, the results and the steps' metrics."""
    lora = alignment_settings(config.objective, config.learner).lora
    weights = load_tensors(result.weights)
    remove_below(directory / "policies")  # of an earlier attempt
    policy = PolicyStore(directory / "policies").publish(1, inputs.policy_dir, weights, lora)
    training = {"options": config.model_dump(mode="json", exclude={"output"}), **dataclasses.asdict(result)}
    del training["weights"]
    with explain_disk_errors(config.output / WEIGHTS):
        (policy / "training.json").write_text(json.dumps(training, indent=2) + "\n")
        (directory / STEPS).rename(policy / STEPS)
        # The weights last: a directory without them is no policy.
        for part in sorted(policy.iterdir(), key=lambda part: part.name == WEIGHTS):
            remove_below(config.output / part.name)  # a directory of an earlier attempt
            part.rename(config.output / part.name)


def figures(result: LearnerResult) -> str:
    """The metrics before and after the training, as a table."""
    names = {
        "winner": "winner loss",
        "loser": "loser loss",
        "margin": "margin",
        "implicit_accuracy": "implicit accuracy",
    }
    rows = [("", "start", "end")]
    rows += [(name, format_number(result.start[key]), format_number(result.end[key])) for key, name in names.items()]
    rows.append(("held-out pair accuracy", "", format_number(result.heldout_pair_accuracy)))
    return f"{result.pairs} pairs, {result.steps} steps\n\n{format_table(rows)}"
