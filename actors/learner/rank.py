"""One rank of the learner: the optimiser steps of a training task."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from actors.learner.alignment.groups import GroupData
from actors.learner.alignment.reading import read_groups
from actors.learner.alignment.task import Alignment
from actors.learner.batches import NoiseKey, rank_share
from actors.learner.checkpoint import (
    Progress,
    checkpoint_moments,
    checkpoint_progress,
    checkpoint_weights,
    latest_checkpoint,
    local_checkpoint,
)
from actors.learner.clips import ClipData
from actors.learner.engine import master_weights, start_deepspeed, update
from actors.learner.mailbox import EventLog
from actors.learner.milestones import Milestones
from actors.learner.moments import set_moments
from actors.learner.pretraining import FlowMatching
from actors.learner.schedule import num_steps, steps_per_epoch
from actors.learner.settings import LearnerJob, PretrainingSettings
from actors.learner.task import TrainingTask
from actors.storage.atomic import atomic_write
from actors.storage.policy_store import local_policy
from actors.storage.shards import shards_at
from tangoflux.errors import ConfigError
from tangoflux.model.checkpoint import write_weights
from tangoflux.model.layout import fresh_policy, load_lora_policy, load_policy
from tangoflux.model.policy import Policy
from tangoflux.model.reference import make_reference


def run_rank(config: dict[str, Any]) -> dict[str, Any] | None:
    """The function that Ray Train runs on each rank, with a ``LearnerJob`` and the handle of a ``Mailbox``."""
    job, mailbox = config["job"], config["mailbox"]
    ray.get(mailbox.enrol.remote(ray.get_runtime_context().current_actor))
    rank, device = ray.train.get_context().get_world_rank(), ray.train.torch.get_device()
    return Rank(job, load_data(job), rank, device, EventLog(mailbox if rank == 0 else None)).run()


def load_data(job: LearnerJob) -> GroupData | ClipData:
    """The complete dataset in its order, as a rank takes its share of every batch itself."""
    if isinstance(job.settings, PretrainingSettings):
        return ClipData(job.settings.clips_dir / "latents")
    assert job.data_dir is not None
    return read_groups(shards_at(job.data_dir), job.settings)


class Rank:
    """One process of the training; all ranks run the same steps. The process group must exist."""

    def __init__(
        self, job: LearnerJob, data: GroupData | ClipData, rank: int, device: torch.device, log: EventLog
    ) -> None:
        torch.set_num_threads(job.settings.threads)
        self.job, self.settings = job, job.settings
        self.rank, self.device, self.log = rank, device, log
        self.dtype = torch.bfloat16 if job.settings.precision == "bf16" else torch.float32
        self.checkpoint = latest_checkpoint(job.checkpoints)
        self.progress = checkpoint_progress(self.checkpoint)
        self.policy_dir = local_policy(job.policy_dir)
        policy = self._load_policy()
        with local_checkpoint(self.checkpoint) as checkpoint:
            weights, average = checkpoint_weights(checkpoint) if checkpoint else (_copy_trained(policy), {})
        self.masters = weights if self.dtype == torch.bfloat16 else {}
        # Rank 0 holds the average of all weights.
        self.average = (average or dict(weights)) if self.settings.ema_decay and rank == 0 else {}
        self.policy = policy.to(self.device, self.dtype)
        # The reference is the policy at the training's start, even if the training resumes from a checkpoint.
        self.task = self._make_task(data)
        self.settings = dataclasses.replace(self.settings, micro_batch_size=self.task.micro_batch_size)
        fill_trained(self.policy, weights)

    def run(self) -> dict[str, Any] | None:
        """Trains; on rank 0 also writes events and weights, and returns the metrics."""
        if self.rank == 0 and self.checkpoint is None:
            self.progress = Progress(initial_metrics=self.task.initial_metrics(self.policy))
        self.log.write(*self.progress.events)
        engine = start_deepspeed(self.policy, self.masters, self.settings)
        with local_checkpoint(self.checkpoint) as checkpoint:
            if checkpoint:
                set_moments(engine, self.policy, self.settings, self.rank, checkpoint_moments(checkpoint))
        steps = self._train(engine)
        weights = self.average if self.settings.ema_decay else master_weights(self.policy, keep=self.rank == 0)
        engine.destroy()
        if self.rank != 0:
            return None
        with atomic_write(self.job.weights) as temporary:
            write_weights(weights, temporary)
        self.log.flush()
        return {
            "steps": steps,
            **self.progress.initial_metrics,
            **self.task.final_metrics(lambda: self._stored_policy(weights)),
        }

    def _load_policy(self) -> Policy:
        """The policy at the start of the training, with everything frozen that is not trained."""
        settings = self.settings
        pretrains = isinstance(settings, PretrainingSettings)
        if pretrains and settings.from_scratch:
            policy = fresh_policy(self.policy_dir, self.job.seed)
        elif settings.lora:
            policy = load_lora_policy(self.policy_dir, settings.lora)
        else:
            policy = load_policy(self.policy_dir)
        policy.text_encoder.requires_grad_(pretrains and settings.train_text_encoder)
        if settings.activation_checkpointing:
            policy.transformer.enable_gradient_checkpointing()
        return policy

    def _stored_policy(self, weights: dict[str, Tensor]) -> Policy:
        """The new policy as it is stored."""
        policy = self._load_policy()
        fill_trained(policy, weights)
        return policy.to(self.device, self.dtype)

    def _make_task(self, data: GroupData | ClipData) -> TrainingTask:
        settings, seed, iteration = self.settings, self.job.seed, self.job.iteration
        if isinstance(settings, PretrainingSettings):
            assert isinstance(data, ClipData)
            return FlowMatching(settings, seed, iteration, data, self.policy)
        assert isinstance(data, GroupData)
        return Alignment(settings, seed, iteration, data, make_reference(self.policy))

    def _train(self, engine: Any) -> int:
        """Takes the optimiser steps that are left; returns their number from the start of the training."""
        settings = self.settings
        max_steps = settings.max_steps if isinstance(settings, PretrainingSettings) else None
        steps = num_steps(len(self.task.rows), settings.batch_size, settings.epochs, max_steps)
        milestones = Milestones(self.job, self.task, self.policy, self.average, self.rank)
        for step, (key, rows) in islice(enumerate(self._global_batches(), start=1), self.progress.step, steps):
            started = time.monotonic()
            values = self._step(engine, rows, key, step, settings.rate(step, steps))
            values |= {"epoch": key[2], "seconds": time.monotonic() - started}
            self.log.write({"event": "step", "iteration": self.job.iteration, "step": step, **values})
            if settings.ema_decay and step % settings.ema_every == 0:
                self._update_average(step)
            self.log.write(*milestones.reached(step, steps))
            milestones.save(Progress(step, self.progress.initial_metrics, self.log.events), steps, engine)
        return steps

    def _global_batches(self) -> Iterator[tuple[NoiseKey, list[int]]]:
        size = self.settings.batch_size
        for epoch in range(1, self.settings.epochs + 1):
            key = (self.job.seed, self.job.iteration, epoch)
            order = self.task.order(key)
            for index in range(steps_per_epoch(len(order), size)):
                yield key, order[index * size : (index + 1) * size]

    def _step(self, engine: Any, rows: list[int], key: NoiseKey, step: int, rate: float) -> dict[str, Any]:
        """One optimiser step on a global batch; returns global means."""
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # Rows of similar length share a micro-step, to reduce padding.
        rows = sorted(rows, key=self.task.num_frames)
        shares = rank_share(rows, self.settings, self.rank)
        # DeepSpeed divides by micro-steps and ranks; the gradient must be that of the mean over the global batch.
        scale = len(shares) * self.settings.workers / len(rows)
        total: Tensor | None = None
        for micro_step, share in enumerate(shares):
            # A rank without rows still takes part in the reduction, with zero gradients and sums.
            loss, sums = self.task.losses(engine, share or rows[:1], key)
            engine.backward(loss.sum() * (scale if share else 0.0))
            sums = sums.cpu() * (1 if share else 0)
            total = sums if total is None else total + sums
            if micro_step + 1 < len(shares):
                engine.step()
        assert total is not None
        values = self.task.means(_sum_over_ranks(total, self.device))
        _check_finite("loss", values["loss"], step)
        grad_norm = update(engine)
        _check_finite("gradient norm", grad_norm, step)
        return {**values, "learning_rate": rate, "grad_norm": grad_norm}

    def _update_average(self, step: int) -> None:
        """Gathers the weights from all ranks; rank 0 updates their average."""
        decay = self.settings.average_decay(step)
        for name, value in master_weights(self.policy, keep=self.rank == 0).items():
            self.average[name].lerp_(value, 1 - decay)


def fill_trained(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Copies tensors into the parameters of the same names."""
    parameters = dict(policy.named_parameters())
    for name, value in weights.items():
        parameters[name].data.copy_(value)


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"the {name} is {value} at learner step {step}: lower learning_rate or beta")


def _sum_over_ranks(sums: Tensor, device: torch.device) -> Tensor:
    total = sums.to(device)
    dist.all_reduce(total)
    return total.cpu()


def _copy_trained(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.named_parameters() if value.requires_grad}
