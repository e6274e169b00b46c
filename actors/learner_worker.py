"""What each rank of the learner runs inside Ray Train: one iteration of training on the preference pairs."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from actors.files import whole_file
from actors.learner_batches import NoiseKey, PairData, epoch_order, rank_share, split_heldout, steps_per_epoch
from actors.learner_deepspeed import master_weights, start_deepspeed, update
from actors.learner_objective import Measurer, means, pair_losses
from actors.learner_settings import LearnerJob
from tangoflux.errors import ConfigError, DataError
from tangoflux.model import load_policy
from tangoflux.policy import Policy

PROBE_PAIRS = 32
"""Most training pairs on which start and end are compared."""
HELDOUT_DRAWS = 4
"""Noises per held-out pair: there are few pairs, and one noise says little of a pair."""


def run_rank(config: dict[str, LearnerJob]) -> dict[str, Any] | None:
    """The function that Ray Train runs on each rank."""
    rank = ray.train.get_context().get_world_rank()
    return Rank(config["job"], _load_data(), rank, ray.train.torch.get_device()).run()


class Rank:
    """One process of the training; all of them run the same steps, in a process group that exists already."""

    def __init__(self, job: LearnerJob, data: PairData, rank: int, device: torch.device) -> None:
        torch.set_num_threads(job.settings.threads)
        self.job, self.settings, self.data = job, job.settings, data
        self.rank, self.device = rank, device
        self.dtype = torch.bfloat16 if job.settings.precision == "bf16" else torch.float32
        self.train_rows, self.heldout_rows = split_heldout(
            len(data), job.settings.heldout_pairs, job.seed, job.iteration
        )
        policy = self._load_policy()
        _check_channels(data, policy)
        # The reference is a whole copy: nothing that is trained is shared with it, and both run the same kernels.
        self.reference = copy.deepcopy(policy).requires_grad_(False).to(self.device, self.dtype)
        self.masters = _copy_trainable(policy) if self.dtype == torch.bfloat16 else {}
        self.average = _copy_trainable(policy) if self.settings.ema_decay else {}
        self.policy = policy.to(self.device, self.dtype)

    def run(self) -> dict[str, Any] | None:
        """Trains; on rank 0 writes events and weights and returns the measurements."""
        start = self._measure(self.policy) if self.rank == 0 else {}
        engine = start_deepspeed(self.policy, self.masters, self.settings)
        self._train(engine)
        weights = self.average or master_weights(self.policy, keep=self.rank == 0)
        engine.destroy()
        if self.rank != 0:
            return None
        return {"start": start, **self._finish(weights), "pairs": len(self.train_rows)}

    def _load_policy(self) -> Policy:
        policy = load_policy(self.job.policy_dir)
        if self.settings.activation_checkpointing:
            policy.transformer.enable_gradient_checkpointing()
        return policy

    def _train(self, engine: Any) -> None:
        """All optimiser steps of all epochs."""
        with _EventLog(self.job.events if self.rank == 0 else None) as log:
            for step, (key, rows) in enumerate(self._global_batches(), start=1):
                started = time.monotonic()
                values = self._step(engine, rows, key, step)
                values |= {"epoch": key[2], "seconds": time.monotonic() - started}
                log.write({"iteration": self.job.iteration, "step": step, **values})
                if self.settings.ema_decay:
                    self._update_average()

    def _global_batches(self) -> Iterator[tuple[NoiseKey, list[int]]]:
        size = self.settings.batch_size
        for epoch in range(1, self.settings.epochs + 1):
            key = (self.job.seed, self.job.iteration, epoch)
            order = epoch_order(self.train_rows, key)
            for index in range(steps_per_epoch(len(order), size)):
                yield key, order[index * size : (index + 1) * size]

    def _step(self, engine: Any, rows: list[int], key: NoiseKey, step: int) -> dict[str, Any]:
        """One optimiser step on a global batch; returns global means."""
        rate = self.settings.learning_rate * min(1.0, step / max(1, self.settings.warmup_steps))
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # Pairs of similar length share a micro-step, so that little of it is padding.
        rows = sorted(rows, key=lambda row: self.data.num_frames[row])
        shares = rank_share(rows, self.settings, self.rank)
        # DeepSpeed divides by micro-steps and ranks; the gradient is to be that of the mean over the global batch.
        scale = len(shares) * self.settings.workers / len(rows)
        sums = torch.zeros(7, dtype=torch.float64)
        for micro_step, share in enumerate(shares):
            # A rank without a pair still takes part in the reduction, with a gradient of zero.
            batch = self.data.batch(share or rows[:1], key).to(self.device)
            losses = pair_losses(engine, self.reference, batch, self.settings.objective, self.settings.beta)
            engine.backward(losses.loss.sum() * (scale if share else 0.0))
            if share:
                sums += losses.sums().cpu()
            if micro_step + 1 < len(shares):
                engine.step()
        values = means(_sum_over_ranks(sums, self.device))
        _check_finite("loss", values["loss"], step)
        grad_norm = update(engine)
        _check_finite("gradient norm", grad_norm, step)
        return {**values, "learning_rate": rate, "grad_norm": grad_norm}

    def _update_average(self) -> None:
        """Every rank takes part in gathering the weights; rank 0 keeps their average."""
        for name, value in master_weights(self.policy, keep=self.rank == 0).items():
            self.average[name].lerp_(value, 1 - self.settings.ema_decay)

    def _measure(self, policy: Policy) -> dict[str, Any]:
        """Losses and gradient norms on the probe: some training pairs, with a noise that no epoch uses."""
        key = (self.job.seed, self.job.iteration, "probe")
        rows = epoch_order(self.train_rows, key)[:PROBE_PAIRS]
        losses, grad_norm = self._measurer().probe(policy, rows, key)
        renamed = {"winner": losses["winner_loss"], "loser": losses["loser_loss"]}
        renamed |= {name: losses[name] for name in ("implicit_accuracy", "margin")}
        return {"loss": renamed, "grad_norm": grad_norm}

    def _finish(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Stores the new policy and measures it, as anyone who loads it would see it."""
        policy = self._load_policy()
        _fill_trainable(policy, weights)
        with whole_file(self.job.weights) as temporary:
            save_file(weights, temporary)
        policy = policy.to(self.device, self.dtype)
        accuracy = None
        if self.heldout_rows:
            keys = [(self.job.seed, self.job.iteration, f"held out {draw}") for draw in range(HELDOUT_DRAWS)]
            accuracy = self._measurer().losses(policy, self.heldout_rows, keys)["implicit_accuracy"]
        return {"end": self._measure(policy), "heldout_pair_accuracy": accuracy}

    def _measurer(self) -> Measurer:
        settings = self.settings
        return Measurer(self.reference, self.data, settings.objective, settings.beta, settings.micro_batch_size)


def _load_data() -> PairData:
    """The whole dataset in its order: it is not split, each rank takes its share of every batch itself."""
    shard: Any = ray.train.get_dataset_shard("pairs")
    return PairData(list(shard.iter_batches(batch_size=None, batch_format="pyarrow")))


def _check_channels(data: PairData, policy: Policy) -> None:
    channels, expected = data.chosen[0].shape[1], policy.config.in_channels
    if channels != expected:
        raise DataError(f"the pairs' latents have {channels} channels, the policy {expected}: were they made by it?")


def _check_finite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"the {name} is {value} at learner step {step}: lower learning_rate or beta")


def _sum_over_ranks(sums: Tensor, device: torch.device) -> Tensor:
    total = sums.to(device)
    dist.all_reduce(total)
    return total.cpu()


def _copy_trainable(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.named_parameters() if value.requires_grad}


def _fill_trainable(policy: Policy, weights: dict[str, Tensor]) -> None:
    parameters = dict(policy.named_parameters())
    for name, value in weights.items():
        parameters[name].data.copy_(value)


class _EventLog:
    """One JSON object a line, which the driver reads while it grows. Without a path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", encoding="utf-8") if path else None

    def __enter__(self) -> _EventLog:
        return self

    def write(self, event: dict[str, Any]) -> None:
        """Appends and flushes."""
        if self._file:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file:
            self._file.close()
