"""The learner: Ray Train starts the ranks, which train with DeepSpeed on preference pairs or on prepared clips.

One ``fit()`` an iteration, so that its processors are free for the next rollouts. When a rank dies, another ``fit()``
resumes from the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer

from actors.cluster.nodes import this_node
from actors.learner.alignment.reading import check_not_empty, fingerprint
from actors.learner.checkpoint import checkpoint_progress, latest_checkpoint
from actors.learner.mailbox import MailboxActor
from actors.learner.rank import run_rank
from actors.learner.settings import (
    AlignmentSettings,
    LearnerJob,
    LearnerResult,
    PretrainingResult,
    PretrainingSettings,
)
from actors.learner.waiting import MakeRoom, WaitingRanks
from actors.pools.worker_slot import START_TIMEOUT_S, WorkerError, first_line
from actors.storage.arrow_filesystem import arrow_filesystem
from actors.storage.object_store import ObjectStorePath
from actors.storage.paths import absolute, remove, remove_below
from actors.storage.shards import shards_at
from tangoflux.errors import ResourceError, TangoFluxError

logger = logging.getLogger(__name__)

T = TypeVar("T")

OnEvent = Callable[[dict[str, Any]], None]

PRETRAINING_ITERATION = 0

RAY_TRAIN = "ray_train"
"""What Ray Train notes down while it runs, beside the weights."""

POLL_S = 0.2
"""Seconds between two looks into the mailbox."""

MAX_RESTARTS = 3
"""So many times in a row the ranks may die before they have written another checkpoint."""

TRAIN_ENVIRONMENT = {
    # Ray Train looks every 2 s whether its ranks are done: a second of every iteration on average.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A separate process that only announces the end of a spot machine; the loss of one is noticed without it too.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Defaults for what Ray Train takes from the driver's environment only."""


class _HungError(Exception):
    """The ranks gave no sign for too long."""


def train(
    data_dir: Path | ObjectStorePath,
    policy_dir: Path | ObjectStorePath,
    output_dir: Path | ObjectStorePath,
    settings: AlignmentSettings,
    iteration: int,
    seed: int,
    on_step: OnEvent | None = None,
    make_room: MakeRoom = lambda: None,
) -> LearnerResult:
    """Trains the policy of ``policy_dir`` on the shards of ``data_dir``; Ray must be running.

    Goes on from the latest checkpoint in ``output_dir`` that was made on the same pairs, if there is one.

    Args:
        data_dir: shards of preference pairs, and their manifest; all ranks must see it under this path.
        policy_dir: the policy at the iteration's start, and so the reference, in the published layout.
        output_dir: where ``weights.safetensors`` and checkpoints go; all ranks must see it under this path.
        iteration, seed: with the pairs and ``settings`` they decide the result.
        on_step: called in this thread with each optimiser step's values (see ``actors/storage/metrics.py``), soon after
            it, and after a resume also with those of the steps before the checkpoint.
        make_room: called in this thread before the ranks are started, each time, and while they have no place.

    Raises:
        DataError: there are no pairs, or they lack columns, are not finite or do not fit the policy.
        ConfigError: the training diverged.
        ResourceError: the cluster has no place for the ranks.
        WorkerError: the ranks died again and again.
    """
    started = time.monotonic()
    shards = shards_at(data_dir)
    check_not_empty(shards)
    output = absolute(output_dir)
    checkpoints = output / "checkpoints" / fingerprint(shards)
    weights = output / "weights.safetensors"
    job = LearnerJob(absolute(policy_dir), weights, checkpoints, settings, seed, iteration, absolute(data_dir))
    measured, restarts = _train(job, on_step, make_room)
    start, end = measured["start"], measured["end"]
    return LearnerResult(
        weights=job.weights,
        start=start["loss"],
        end=end["loss"],
        grad_norm={term: {"start": norm, "end": end["grad_norm"][term]} for term, norm in start["grad_norm"].items()},
        heldout_pair_accuracy=measured["heldout_pair_accuracy"],
        pairs=measured["pairs"],
        steps=measured["steps"],
        restarts=restarts,
        seconds=time.monotonic() - started,
    )


def pretrain(
    policy_dir: Path,
    output_dir: Path,
    settings: PretrainingSettings,
    seed: int,
    on_event: OnEvent | None = None,
) -> PretrainingResult:
    """Trains the policy of ``policy_dir`` by flow matching on prepared clips; Ray must be running.

    Goes on from the latest checkpoint in ``output_dir``, if there is one.

    Args:
        policy_dir: the policy to begin with, in the published layout.
        output_dir: where ``weights.safetensors`` and checkpoints go; all ranks must see it under this path.
        seed: with the clips and ``settings`` it decides the result.
        on_event: called in this thread with each step, validation and set of samples, soon after it; see ``train``.

    Raises:
        DataError: there are no clips, or they do not fit the policy.
        ConfigError, ResourceError, WorkerError: see ``train``.
    """
    started = time.monotonic()
    output = output_dir.resolve()
    weights, checkpoints = output / "weights.safetensors", output / "checkpoints"
    job = LearnerJob(policy_dir.resolve(), weights, checkpoints, settings, seed, PRETRAINING_ITERATION)
    measured, restarts = _train(job, on_event, lambda: None)
    seconds = time.monotonic() - started
    return PretrainingResult(weights, measured["clips"], measured["steps"], restarts, seconds)


def _train(job: LearnerJob, on_event: OnEvent | None, make_room: MakeRoom) -> tuple[dict[str, Any], int]:
    """Runs the ranks, again after a death; returns what rank 0 measured, and how often they were started again."""
    remove(job.weights)
    on_new = _each_once(on_event or (lambda event: None))
    restarts = futile = 0
    while True:
        step = checkpoint_progress(latest_checkpoint(job.checkpoints)).step
        try:
            make_room()
            return _attempt(job, on_new, make_room), restarts
        except (ray.train.TrainingFailedError, RayActorError, _HungError) as error:
            reached = checkpoint_progress(latest_checkpoint(job.checkpoints)).step
            restarts, futile = restarts + 1, 0 if reached > step else futile + 1
            if futile > MAX_RESTARTS:
                raise WorkerError(
                    f"the learner died {futile} times in a row without another checkpoint; the last: {_cause(error)}"
                ) from error
            logger.warning("the learner died and resumes from step %d: %s", reached, _cause(error))


def _attempt(job: LearnerJob, on_event: OnEvent, make_room: MakeRoom) -> dict[str, Any]:
    """Starts the ranks and waits for their end."""
    mailbox: Any = MailboxActor.options(num_cpus=0, scheduling_strategy=this_node()).remote()
    trainer = _trainer(job, mailbox)
    fit = _in_thread(lambda: _fit(trainer, job.weights.parent))
    ranks: list[Any] = []
    timeout_s = job.settings.timeout_s
    heard, patience_s = time.monotonic(), max(timeout_s, START_TIMEOUT_S)
    waiting = WaitingRanks(job.settings, make_room)
    try:
        while True:
            over = fit.done()
            events, ranks = ray.get(mailbox.take.remote())
            for event in events:
                on_event(event)
                heard, patience_s = time.monotonic(), timeout_s
            if over:
                return fit.result()
            if not ranks:
                waiting.look()
            if timeout_s and time.monotonic() - heard > patience_s:
                if not ranks:
                    raise ResourceError(waiting.shortage(patience_s))
                raise _HungError(f"the ranks gave no sign for {patience_s:g} s")
            time.sleep(POLL_S)
    finally:
        for rank in ranks:
            ray.kill(rank)


def _each_once(on_event: OnEvent) -> OnEvent:
    """Passes on each event once: ranks that resume from a checkpoint report its earlier events again."""
    seen: set[tuple[str, int]] = set()

    def on_new(event: dict[str, Any]) -> None:
        key = event["event"], event["step"]
        if key not in seen:
            seen.add(key)
            on_event(event)

    return on_new


def _trainer(job: LearnerJob, mailbox: Any) -> TorchTrainer:
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    settings = job.settings
    return TorchTrainer(
        run_rank,
        train_loop_config={"job": job, "mailbox": mailbox},
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.num_gpus > 0,
            resources_per_worker={"CPU": settings.num_cpus, "GPU": settings.num_gpus, **settings.resources},
            label_selector=settings.label_selector or None,
        ),
        run_config=ray.train.RunConfig(
            **_storage(job.weights.parent),
            name=RAY_TRAIN,
            # _train decides whether the training is restarted, and from where.
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


def _storage(output: Path | ObjectStorePath) -> dict[str, Any]:
    """Where Ray Train keeps what it notes down, as ``ray.train.RunConfig`` takes it."""
    if isinstance(output, ObjectStorePath):
        filesystem, path = arrow_filesystem(output)
        return {"storage_path": path, "storage_filesystem": filesystem}
    output.mkdir(parents=True, exist_ok=True)
    return {"storage_path": str(output)}


def _fit(trainer: TorchTrainer, output: Path | ObjectStorePath) -> Any:
    """Runs the training, and raises what a rank raised on purpose as it is."""
    try:
        return trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, TangoFluxError):
                raise failure from None
        raise
    finally:
        remove_below(output / RAY_TRAIN)


def _cause(error: Exception) -> str:
    """What happened to the first rank that failed, in one line."""
    failures = list(error.worker_failures.values()) if isinstance(error, ray.train.WorkerGroupError) else [error]
    return first_line(failures[0])


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
