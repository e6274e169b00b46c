"""The one training loop of the small models: AdamW, warm-up and cosine, progress lines, and a place to resume from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tangoflux.miniature_training.data import Log

_LOG_EVERY = 20


@dataclass(frozen=True)
class LoopConfig:
    """Steps of the optimiser and its rates; the learning rate falls to zero at the last step."""

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def run_loop(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    config: LoopConfig,
    checkpoint: Path,
    log: Log,
    save_every_s: float = 60.0,
) -> None:
    """Train in place.

    Args:
        model: what is trained.
        loss_of_step: the loss of a step; what it draws may depend on the step alone, so that a resume is exact.
        config: how long and how fast.
        checkpoint: the file from which it resumes and to which it saves.
        log: takes a progress line.
        save_every_s: the seconds between two saves.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    first = _resume(model, optimiser, checkpoint, log)
    begun = saved = time.monotonic()
    model.train()
    for step in range(first, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        torch.manual_seed(step)  # dropout
        loss = loss_of_step(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimiser.step()
        if (step + 1) % _LOG_EVERY == 0:
            seconds = (time.monotonic() - begun) / (step + 1 - first)
            log(f"step {step + 1}/{config.steps} loss {loss.item():.3f} {seconds:.2f} s/step")
        if time.monotonic() - saved > save_every_s or step + 1 == config.steps:
            _save(model, optimiser, step + 1, checkpoint)
            saved = time.monotonic()
    model.eval()


def _save(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, checkpoint: Path) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, partial)
    os.replace(partial, checkpoint)


def _resume(model: nn.Module, optimiser: torch.optim.Optimizer, checkpoint: Path, log: Log) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    log(f"resumed at step {state['step']}")
    return int(state["step"])
