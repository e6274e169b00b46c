"""What goes into the learner, and what comes out.

Without torch, as Ray Train's controller, a process of its own, reads these objects too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tangoflux.errors import ConfigError


@dataclass(frozen=True)
class LearnerSettings:
    """How the policy is trained on the preference pairs of an iteration.

    Attributes:
        workers: ranks of the data-parallel training; the result is the same for any number, to rounding.
        threads: CPU threads of a rank.
        num_cpus, num_gpus: what a rank asks of Ray.
        objective: ``crpo`` adds the winner's flow-matching loss to ``dpo_fm``.
        beta: strength of the preference term.
        learning_rate: reached after ``warmup_steps`` optimiser steps, then constant.
        batch_size: pairs of an optimiser step, over all ranks.
        micro_batch_size: most pairs that a rank takes through one forward pass.
        max_grad_norm: gradients above this norm are scaled down to it; 0 never does.
        zero_stage: what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients, 3 weights too.
        ema_decay: decay a step of the weights' moving average, which is then what is stored; 0 keeps none.
        precision: of policy and reference; the master weights are float32.
        activation_checkpointing: the backward pass computes activations again, which the forward pass need not keep.
        heldout_pairs: pairs that are not trained on; at most an eighth of all.
    """

    workers: int = 1
    threads: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    objective: Literal["crpo", "dpo_fm"] = "crpo"
    beta: float = 2000.0
    learning_rate: float = 4e-5
    batch_size: int = 16
    micro_batch_size: int = 16
    epochs: int = 8
    warmup_steps: int = 10
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    zero_stage: int = 1
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    heldout_pairs: int = 8

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "batch_size", "micro_batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner {name} is {getattr(self, name)}, expected at least 1")
        if self.zero_stage not in range(4):
            raise ConfigError(f"learner zero_stage is {self.zero_stage}, expected 0, 1, 2 or 3")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError("learner precision bf16 needs zero_stage 1, 2 or 3, which keep float32 master weights")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"learner ema_decay is {self.ema_decay}, expected 0 (off) or a number below 1")


@dataclass(frozen=True)
class LearnerJob:
    """What a rank needs to know; paths are absolute and seen by all ranks."""

    policy_dir: Path
    weights: Path
    events: Path
    settings: LearnerSettings
    seed: int
    iteration: int


@dataclass(frozen=True)
class LearnerResult:
    """One iteration of the learner.

    Attributes:
        weights: a safetensors file of what was trained, float32, by the published names; ``PolicyStore.publish`` takes
            it. The text encoder and the codec stay as they were.
        start, end: ``winner``, ``loser``, ``implicit_accuracy`` and ``margin`` on the same pairs and noise before and
            after training.
        grad_norm: ``{"dpo": {"start", "end"}, "winner": {"start", "end"}}``, of each loss term alone on these pairs.
        heldout_pair_accuracy: share of unseen pairs that the new policy ranks as the reward did; None without any.
        pairs: pairs that were trained on.
        steps: optimiser steps.
        seconds: from start to end, start-up of the ranks included.
    """

    weights: Path
    start: dict[str, float]
    end: dict[str, float]
    grad_norm: dict[str, dict[str, float]]
    heldout_pair_accuracy: float | None
    pairs: int
    steps: int
    seconds: float
