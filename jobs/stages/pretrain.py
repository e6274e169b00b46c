"""The work of ``jobs/pretrain.py``: trains a policy on prepared clips."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.cluster.session import ray_session
from actors.learner.batches import split_heldout
from actors.learner.checkpoint import latest_checkpoint
from actors.learner.clips import ClipData
from actors.learner.launch import PRETRAINING_ITERATION, pretrain
from actors.learner.schedule import check_warmup, num_steps
from actors.learner.settings import PretrainingResult, PretrainingSettings
from actors.storage.atomic import explain_disk_errors
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
from jobs.stages.preparation.settings import PREPARED_FILE, codec_hashes
from tangoflux.errors import DataError
from tangoflux.model.checkpoint import read_json
from tangoflux.model.layout import find_directory
from tangoflux.model.policy import PolicyConfig
from tangoflux.sampling_params import SamplingParams

CONFIG_FILE = "config.yaml"
"""The options, in the output directory."""


@dataclass(frozen=True)
class Inputs:
    """What the job works on.

    Attributes:
        clips: clips that are trained on.
        hours: of audio, held-out clips included.
        steps: optimiser steps from the start of the training.
        prompts: captions and durations in seconds of held-out clips, which are sampled.
    """

    policy_dir: Path
    clips: int
    hours: float
    steps: int
    prompts: tuple[tuple[str, float], ...]


def run(config: PretrainJob) -> None:
    """Checks the input, trains from the latest checkpoint on, and writes the new policy."""
    check_output(config, config.output, config.output / CONFIG_FILE)
    inputs = read_inputs(config)
    with Display() as display:
        if (config.output / "policy").is_dir():
            display.note(f"nothing to do: {config.output / 'policy'} is there; choose another --output to train again")
            return
        display.note(f"{inputs.clips} clips of {config.clips} ({inputs.hours:.2f} h) to train {config.init_policy}")
        with ray_session(config.learner), open_output(config, config.output, config.output / CONFIG_FILE):
            display.note(place_learner(config.learner))
            result = train(config, inputs, display)
        write_pretraining_report(config.output)
        publish(config, inputs, result)
        display.note(summary(config, result))


def read_inputs(config: PretrainJob) -> Inputs:
    """Checks the policy and reads the clips without their latents.

    Raises:
        TangoFluxError: policy or clips cannot be used, or do not fit together or the options.
    """
    if not (config.clips / PREPARED_FILE).is_file():
        raise DataError(f"--clips {config.clips} has no {PREPARED_FILE}: run jobs/prepare.py to its end first")
    policy_dir = find_directory(config.init_policy)
    if latest_checkpoint(config.output / "learner" / "checkpoints") is None:
        check_disk(bytes_of(config, read_model_facts(policy_dir)), config.output, "choose another --output")
    check_codec(config, policy_dir)
    data = ClipData(config.clips / "latents")
    rows, heldout = split_heldout(len(data), config.heldout_clips, config.seed, PRETRAINING_ITERATION)
    steps = num_steps(len(rows), config.learner.batch_size, config.learner.epochs, config.max_steps)
    check_warmup(config.learner.warmup_steps, steps, "the training", "--epochs or --max-steps")
    prompts = tuple((data.captions[row][0], data.duration_s[row]) for row in heldout[: config.num_audio_samples])
    return Inputs(policy_dir, len(rows), sum(data.duration_s) / 3600, steps, prompts)


def bytes_of(config: PretrainJob, facts: ModelFacts) -> int:
    """The job's peak disk usage without samples: briefly two checkpoints, the new weights, and the policy."""
    trained = facts.trained + (facts.text_encoder if config.train_text_encoder else 0)
    floats_per_weight = 4 if config.learner.ema_decay else 3  # in a checkpoint
    return 4 * trained * (2 * floats_per_weight + 1) + facts.file_bytes


def check_codec(config: PretrainJob, policy_dir: Path) -> None:
    """Checks that the clips were encoded for this policy.

    Raises:
        DataError: they were encoded by another codec, or with other numbers of frames.
    """
    prepared = read_json(config.clips / PREPARED_FILE)
    if any(prepared.get(name) != value for name, value in codec_hashes(policy_dir).items()):
        raise DataError(
            f"--clips {config.clips} were encoded by another codec than that of {config.init_policy}: prepare them "
            f"again with --policy {config.init_policy}"
        )
    policy = PolicyConfig.from_dict(read_json(policy_dir / "config.json"))
    for name, expected in (("latent_frames", policy.latent_frames), ("max_frames", policy.audio_seq_len)):
        if prepared.get(name) != expected:
            raise DataError(
                f"--clips {config.clips} have {name} {prepared.get(name)}, {config.init_policy} has {expected}: "
                f"prepare them again with --policy {config.init_policy}"
            )


def train(config: PretrainJob, inputs: Inputs, display: Display) -> PretrainingResult:
    """Trains; logs and shows every event."""
    settings = settings_of(config, inputs.prompts)
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
            elif event["event"] == "step":  # logged before the job was interrupted
                stage.skip(1)
            if event["event"] == "samples":
                write_pretraining_report(config.output)

        return pretrain(inputs.policy_dir, config.output / "learner", settings, config.seed, on_event)


def settings_of(config: PretrainJob, prompts: tuple[tuple[str, float], ...]) -> PretrainingSettings:
    """The job's options in the learner's form."""
    return PretrainingSettings(
        **config.learner.model_dump(),
        clips_dir=config.clips.resolve(),
        samples_dir=config.output.resolve() / "samples",
        prompts=prompts,
        sampling=SamplingParams(**config.sampling.model_dump()),
        max_steps=config.max_steps,
        from_scratch=config.from_scratch,
        train_text_encoder=config.train_text_encoder,
        group_by_length=config.group_by_length,
        caption_dropout=config.caption_dropout,
        sample_posterior=config.posterior == "sample",
        heldout_clips=config.heldout_clips,
        validate_every=config.validate_every,
        sample_every=config.sample_every,
    )


def show(event: Mapping[str, Any], stage: Stage, display: Display, trackers: Trackers) -> None:
    """Shows an event to people."""
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
    """Writes ``policy/`` in the output directory, complete or not at all."""
    workspace = config.output / ".publishing"
    shutil.rmtree(workspace, ignore_errors=True)
    policy = PolicyStore(workspace).publish(1, inputs.policy_dir, load_file(result.weights))
    with explain_disk_errors(config.output / "policy"):
        policy.rename(config.output / "policy")
        shutil.rmtree(workspace)
        result.weights.unlink()


def summary(config: PretrainJob, result: PretrainingResult) -> str:
    """The results, and where to find them."""
    events = MetricsLog(config.output / "metrics.jsonl").read()
    losses = {event["step"]: event["loss"]["mean"] for event in events if event["event"] == "validation"}
    return (
        f"{result.clips} clips, {result.steps} steps, {format_seconds(result.seconds)}\n{validation_line(losses)}\n"
        f"report       {config.output / 'report.html'}\n"
        f"policy       {config.output / 'policy'}\n"
        f"samples      {config.output / 'samples'}\n"
        f"curves       tensorboard --logdir {config.output}\n"
    )


def validation_line(losses: Mapping[int, float]) -> str:
    """The first and the last validation loss, by step; of a single one its step, as nothing shows a change."""
    if not losses:
        return ""
    first, last = min(losses), max(losses)
    if first == last:
        return f"validation loss {format_number(losses[last])} at step {last}, measured only once\n"
    return f"validation loss {format_number(losses[first])} -> {format_number(losses[last])}\n"
