"""Trains for ``jobs/pretrain.py``: prepared clips to a policy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.cluster.session import ray_session
from actors.learner.batches import split_heldout, steps_per_epoch
from actors.learner.checkpoint import latest_checkpoint
from actors.learner.clips import ClipData
from actors.learner.launch import PRETRAINING_ITERATION, pretrain
from actors.learner.settings import LearnerSettings, Pretraining, PretrainingResult
from actors.storage.metrics import MetricsLog
from actors.storage.policy_store import PolicyStore
from jobs.capacity.model_facts import ModelFacts, read_model_facts
from jobs.capacity.placement import place_learner
from jobs.capacity.plan import check_disk
from jobs.options.pretrain import PretrainJob
from jobs.reporting.display import Display, Stage
from jobs.reporting.formatting import format_number, format_seconds
from jobs.reporting.html.pretraining_report import write_pretraining_report
from jobs.reporting.machine import machine_facts
from jobs.reporting.tensorboard_tracker import TensorboardTracker
from jobs.reporting.trackers import Trackers
from jobs.stages.output_dir import check_output, open_output
from jobs.stages.prepare_settings import PREPARED_FILE, codec_hashes
from tangoflux.errors import ConfigError, DataError
from tangoflux.model.checkpoint import read_json
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig

CONFIG_FILE = "config.yaml"
"""The options, in the output directory."""


@dataclass(frozen=True)
class Inputs:
    """What the job works on.

    Attributes:
        clips: clips that are trained on; hours: of all.
        steps: optimiser steps of the whole training.
        prompts: captions and seconds of held-out clips, to sample.
    """

    policy_dir: Path
    clips: int
    hours: float
    steps: int
    prompts: tuple[tuple[str, float], ...]


def run(config: PretrainJob) -> None:
    """Checks what can be checked, trains from the latest checkpoint on, and writes the new policy."""
    check_output(config, config.output, config.output / CONFIG_FILE)
    inputs = read_inputs(config)
    with open_output(config, config.output, config.output / CONFIG_FILE), Display() as display:
        if (config.output / "policy").is_dir():
            display.note(f"nothing to do: {config.output / 'policy'} is there; choose another --output to train again")
            return
        display.note(f"{inputs.clips} clips of {config.clips} ({inputs.hours:.2f} h) to train {config.init_policy}")
        with ray_session(config.learner):
            display.note(place_learner(config.learner))
            result = train(config, inputs, display)
        write_pretraining_report(config.output)
        publish(config, inputs, result)
        display.note(summary(config, result))


def read_inputs(config: PretrainJob) -> Inputs:
    """Looks at the policy and reads all of the clips but their latents.

    Raises:
        TangoFluxError: the policy or the clips cannot be used, or not together.
    """
    if not (config.clips / PREPARED_FILE).is_file():
        raise DataError(f"--clips {config.clips} has no {PREPARED_FILE}: run jobs/prepare.py to its end first")
    policy_dir = find_directory(config.init_policy)
    if latest_checkpoint(config.output / "learner" / "checkpoints") is None:
        check_disk(bytes_of(config, read_model_facts(policy_dir)), config.output, "choose another --output")
    check_codec(config, policy_dir)
    data = ClipData(config.clips / "latents")
    rows, heldout = split_heldout(len(data), config.heldout_clips, config.seed, PRETRAINING_ITERATION)
    steps = config.learner.epochs * steps_per_epoch(len(rows), config.learner.batch_size)
    steps = min(steps, config.max_steps or steps)
    if steps <= config.learner.warmup_steps:
        raise ConfigError(
            f"--warmup-steps {config.learner.warmup_steps} is not below the {steps} steps of the training, so the "
            "learning rate would never be reached; lower it, or raise --epochs or --max-steps"
        )
    prompts = tuple((data.captions[row][0], data.duration_s[row]) for row in heldout[: config.num_audio_samples])
    return Inputs(policy_dir, len(rows), sum(data.duration_s) / 3600, steps, prompts)


def bytes_of(config: PretrainJob, facts: ModelFacts) -> int:
    """What the job takes on disk beside samples: two checkpoints for a moment, the new weights, and the policy."""
    trained = facts.trained + (facts.text_encoder if config.train_text_encoder else 0)
    numbers_in_a_checkpoint = 4 if config.learner.ema_decay else 3
    return 4 * trained * (2 * numbers_in_a_checkpoint + 1) + facts.file_bytes


def check_codec(config: PretrainJob, policy_dir: Path) -> None:
    """Whether the clips were encoded for this policy.

    Raises:
        DataError: they were by another codec, or with other numbers of frames.
    """
    prepared = read_json(config.clips / PREPARED_FILE)
    if any(prepared.get(name) != value for name, value in codec_hashes(policy_dir).items()):
        raise DataError(
            f"--clips {config.clips} were encoded by another codec than that of {config.init_policy}: prepare them "
            f"again with --policy {config.init_policy}"
        )
    policy = PolicyConfig.from_dict(read_json(policy_dir / "config.json"))
    for name, wanted in (("latent_frames", policy.latent_frames), ("max_frames", policy.audio_seq_len)):
        if prepared.get(name) != wanted:
            raise DataError(
                f"--clips {config.clips} have {name} {prepared.get(name)}, {config.init_policy} has {wanted}: prepare "
                f"them again with --policy {config.init_policy}"
            )


def train(config: PretrainJob, inputs: Inputs, display: Display) -> PretrainingResult:
    """Trains; every event goes to the log, to TensorBoard and to the display."""
    plan, settings = pretraining(config, inputs), LearnerSettings(**config.learner.model_dump())
    learner = config.output / "learner"
    metrics = MetricsLog(config.output / "metrics.jsonl")
    logged = {(event["event"], event["step"]) for event in metrics.read() if "step" in event}
    facts = {"clips": inputs.clips, "hours": inputs.hours, "prompts": inputs.prompts, "machine": machine_facts()}
    metrics.write("run", command=sys.argv, config=config.model_dump(mode="json"), **facts)
    steps_before = len([kind for kind, _ in logged if kind == "step"])
    with (
        Trackers(TensorboardTracker(config.output / "tensorboard"), steps_before=steps_before) as trackers,
        display.stage(0, "pretraining", inputs.steps, "steps") as stage,
    ):

        def on_event(event: Mapping[str, Any]) -> None:
            if (event["event"], event["step"]) not in logged:
                show(metrics.write(**event), stage, display, trackers)
            elif event["event"] == "step":  # of an earlier start of the job
                stage.skip(1)
            if event["event"] == "samples":
                write_pretraining_report(config.output)

        return pretrain(inputs.policy_dir, learner, settings, plan, config.seed, on_event)


def pretraining(config: PretrainJob, inputs: Inputs) -> Pretraining:
    """The job's options as the learner takes them."""
    output = config.output.resolve()
    return Pretraining(
        clips_dir=config.clips.resolve(),
        samples=output / "samples",
        prompts=inputs.prompts,
        num_steps=config.sampling.num_steps,
        guidance_scale=config.sampling.guidance_scale,
        max_steps=config.max_steps or 0,
        from_scratch=config.from_scratch,
        train_text_encoder=config.train_text_encoder,
        caption_dropout=config.caption_dropout,
        sample_posterior=config.posterior == "sample",
        heldout_clips=config.heldout_clips,
        validate_every=config.validate_every,
        sample_every=config.sample_every,
    )


def show(event: Mapping[str, Any], stage: Stage, display: Display, trackers: Trackers) -> None:
    """What people see of an event."""
    if event["event"] == "step":
        trackers.step(dict(event))
        stage.advance(loss=event["loss"])
    elif event["event"] == "validation":
        trackers.validation(dict(event))
        display.figures(validation=event["loss"]["mean"])
        display.note(f"step {event['step']}: validation loss {format_number(event['loss']['mean'])}")
    elif event["event"] == "samples":
        display.note(f"step {event['step']}: {len(event['files'])} samples in {Path(event['files'][0]).parent}")


def publish(config: PretrainJob, inputs: Inputs, result: PretrainingResult) -> None:
    """Makes ``policy/`` of the output directory, whole or not at all."""
    workspace = config.output / ".publishing"
    shutil.rmtree(workspace, ignore_errors=True)
    policy = PolicyStore(workspace).publish(1, inputs.policy_dir, load_file(result.weights))
    policy.rename(config.output / "policy")
    shutil.rmtree(workspace)
    result.weights.unlink()


def summary(config: PretrainJob, result: PretrainingResult) -> str:
    """What was done, and where to look and listen."""
    events = MetricsLog(config.output / "metrics.jsonl").read()
    losses = [event["loss"]["mean"] for event in events if event["event"] == "validation"]
    curve = f"validation loss {format_number(losses[0])} -> {format_number(losses[-1])}\n" if losses else ""
    return (
        f"{result.clips} clips, {result.steps} steps, {format_seconds(result.seconds)}\n{curve}\n"
        f"report       {config.output / 'report.html'}\n"
        f"policy       {config.output / 'policy'}\n"
        f"samples      {config.output / 'samples'}\n"
        f"curves       tensorboard --logdir {config.output}\n"
    )
