"""The learner: Ray Train starts the ranks, which train with DeepSpeed on preference pairs or on prepared clips.

One ``fit()`` an iteration, so that its processors are free for the next rollouts.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.train.torch import TorchTrainer

from actors.files import clear_disk_errors
from actors.learner_batches import COLUMNS
from actors.learner_settings import LearnerJob, LearnerResult, LearnerSettings, Pretraining, PretrainingResult
from actors.learner_worker import run_rank
from actors.writer import ShardWriter
from tangoflux.errors import DataError, ResourceError, TangoFluxError
from tangoflux.records import is_latents, latents_array

T = TypeVar("T")

PRETRAINING_ITERATION = 0

POLL_S = 0.2
"""Seconds between two looks at the step events."""

TRAIN_ENVIRONMENT = {
    # Ray Train looks every 2 s whether its ranks are done: a second of every iteration on average.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process of its own that only announces the end of a spot machine; its loss is noticed without it too.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Defaults for what Ray Train takes from the driver's environment only."""


def train(
    preferences_dir: Path,
    policy_dir: Path,
    output_dir: Path,
    settings: LearnerSettings,
    iteration: int,
    seed: int,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> LearnerResult:
    """Trains the policy of ``policy_dir`` on the pairs of ``preferences_dir``; Ray must be running.

    Args:
        preferences_dir: shards with the columns ``learner_batches.COLUMNS`` (others are not read) and their manifest.
        policy_dir: the policy at the iteration's start, and so the reference, in the published layout.
        output_dir: where ``weights.safetensors`` and ``steps.jsonl`` go; all ranks must see it under this path.
        iteration, seed: with the pairs and ``settings`` they decide the result.
        on_step: called in this thread with each optimiser step's values (see ``jobs/metrics.py``), soon after it.

    Raises:
        DataError: there are no pairs, or they lack columns, are not finite or do not fit the policy.
        ConfigError: the training diverged.
        ResourceError: the cluster has fewer processors than ``settings`` ask for.
        ray.train.TrainingFailedError: a rank died.
    """
    started = time.monotonic()
    _check_resources(settings)
    pairs = _read_pairs(ShardWriter(preferences_dir))
    job = _job(policy_dir, output_dir, settings, seed, iteration)
    with clear_disk_errors(job.events):
        output_dir.mkdir(parents=True, exist_ok=True)
        job.events.write_text("")
    measured, steps = _train(job, {"pairs": pairs}, on_step)
    return _result(measured, job.weights, steps, time.monotonic() - started)


def pretrain(
    policy_dir: Path,
    output_dir: Path,
    settings: LearnerSettings,
    pretraining: Pretraining,
    seed: int,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainingResult:
    """Trains the policy of ``policy_dir`` by flow matching on prepared clips; Ray must be running.

    Goes on from the latest of ``pretraining.checkpoints``, if there is one.

    Args:
        policy_dir: the policy to begin with, in the published layout.
        output_dir: where ``weights.safetensors`` and ``steps.jsonl`` go; all ranks must see it under this path.
        seed: with the clips, ``settings`` and ``pretraining`` it decides the result.
        on_event: called in this thread with each step, validation, set of samples and checkpoint, soon after it.

    Raises:
        DataError: there are no clips, or they do not fit the policy.
        ConfigError, ResourceError, ray.train.TrainingFailedError: see ``train``.
    """
    started = time.monotonic()
    _check_resources(settings)
    job = _job(policy_dir, output_dir, settings, seed, PRETRAINING_ITERATION, pretraining)
    with clear_disk_errors(job.events):
        output_dir.mkdir(parents=True, exist_ok=True)
        job.events.write_text("")
    measured, steps = _train(job, {}, on_event)
    return PretrainingResult(job.weights, measured["clips"], steps, time.monotonic() - started)


def _job(
    policy_dir: Path,
    output_dir: Path,
    settings: LearnerSettings,
    seed: int,
    iteration: int,
    pretraining: Pretraining | None = None,
) -> LearnerJob:
    output = output_dir.resolve()
    weights, events = output / "weights.safetensors", output / "steps.jsonl"
    return LearnerJob(policy_dir.resolve(), weights, events, settings, seed, iteration, pretraining)


def _train(
    job: LearnerJob, datasets: dict[str, ray.data.Dataset], on_event: Callable[[dict[str, Any]], None] | None
) -> tuple[dict[str, Any], int]:
    """Runs the ranks; returns what rank 0 measured, and the number of optimiser steps taken."""
    job.weights.unlink(missing_ok=True)
    trainer = _trainer(datasets, job)
    fit = _in_thread(lambda: _fit(trainer))
    steps = 0
    for event in _tail(job.events, fit):
        steps += event["event"] == "step"
        if on_event:
            on_event(event)
    return fit.result(), steps


def _check_resources(settings: LearnerSettings) -> None:
    """Ray Train would wait without a word and without an end."""
    there = ray.cluster_resources()
    for name, each in {"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources}.items():
        if settings.workers * each > there.get(name, 0):
            raise ResourceError(
                f"{settings.workers} learner workers of {each:g} {name}s each are more than the cluster's "
                f"{there.get(name, 0):g} {name}s: lower --learner-workers, or what each asks for, or add nodes"
            )


def _read_pairs(shards: ShardWriter) -> ray.data.Dataset:
    """The dataset in shared memory, one block a shard, in the shards' order.

    The driver reads and checks the shards: Ray Data's own Parquet reader would start processes for seconds on every
    iteration, and would wait for ever on a machine whose processors the ranks have taken.
    """
    blocks: list[Any] = []
    for part in shards.shards():
        table = shards.read_part(part, verify=True)
        if len(table):
            blocks.append(ray.put(_checked(table, f"{shards.directory} shard {part}")))
    if not blocks:
        raise DataError(f"{shards.directory} holds no preference pairs: nothing can be learnt from it")
    dataset = ray.data.from_arrow_refs(blocks)
    dataset.context.enable_progress_bars = False
    return dataset


def _checked(table: pa.Table, source: str) -> pa.Table:
    """The learner's columns of a shard, each in one piece."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{source} lacks the columns {', '.join(missing)}")
    table = table.select(list(COLUMNS)).combine_chunks()
    empty = [name for name in COLUMNS if table[name].null_count]
    if empty:
        raise DataError(f"{source} has empty fields in {', '.join(empty)}")
    frames = table["num_frames"].to_numpy()
    for name in ("chosen_latents", "rejected_latents"):
        if not is_latents(table.schema.field(name).type):
            raise DataError(f"{source}: {name} is {table.schema.field(name).type}, expected tangoflux.records' type")
        latents = latents_array(table[name])
        if not np.isfinite(latents).all():
            raise DataError(f"{source}: {name} holds values that are not finite")
        if frames.min() < 1 or frames.max() > latents.shape[1]:
            raise DataError(f"{source}: num_frames must be from 1 to the {latents.shape[1]} frames of {name}")
    return table


def _trainer(datasets: dict[str, ray.data.Dataset], job: LearnerJob) -> TorchTrainer:
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    settings = job.settings
    return TorchTrainer(
        run_rank,
        train_loop_config={"job": job},
        datasets=dict(datasets),
        dataset_config=ray.train.DataConfig(
            datasets_to_split=[], execution_options=ray.data.ExecutionOptions(preserve_order=True)
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.num_gpus > 0,
            resources_per_worker={"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources},
            label_selector=settings.label_selector or None,
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(job.events.parent),
            name="ray_train",
            # The stage is short and starts again from its own beginning: whoever drives it decides whether.
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


def _fit(trainer: TorchTrainer) -> Any:
    """Runs the training, and raises what a rank raised on purpose as it is."""
    try:
        return trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, TangoFluxError):
                raise failure from None
        raise
    finally:
        storage = trainer.run_config
        shutil.rmtree(Path(str(storage.storage_path)) / str(storage.name), ignore_errors=True)


def _in_thread(function: Callable[[], T]) -> Future[T]:
    """Runs ``function`` beside this thread, which can then show progress and be interrupted.

    The thread is a daemon, unlike those of an executor: an interrupted program does not wait for the training.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="learner", daemon=True).start()
    return future


def _tail(events: Path, until: Future[Any]) -> Iterator[dict[str, Any]]:
    """The events as they are written, to the last one before ``until`` was done."""
    position = 0
    while True:
        done = until.done()
        with events.open("rb") as file:
            file.seek(position)
            *lines, _ = file.read().split(b"\n")
        for line in lines:
            position += len(line) + 1
            yield {"event": "step", **json.loads(line)}
        if done:
            return
        time.sleep(POLL_S)


def _result(measured: dict[str, Any], weights: Path, steps: int, seconds: float) -> LearnerResult:
    start, end = measured["start"], measured["end"]
    return LearnerResult(
        weights=weights,
        start=start["loss"],
        end=end["loss"],
        grad_norm={
            term: {"start": start["grad_norm"][term], "end": end["grad_norm"][term]} for term in ("dpo", "winner")
        },
        heldout_pair_accuracy=measured["heldout_pair_accuracy"],
        pairs=measured["pairs"],
        steps=steps,
        seconds=seconds,
    )
