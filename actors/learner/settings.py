"""What goes into the learner, and what comes out.

Without torch, as Ray Train's controller, a process of its own, reads these objects too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actors.storage.object_store import ObjectStorePath
from tangoflux.errors import ConfigError
from tangoflux.model.lora import LoraSettings


@dataclass(frozen=True)
class LearnerSettings:
    """How the policy is trained on the preference pairs of an iteration.

    Attributes:
        workers: ranks of the data-parallel training; the result is the same for any number, to rounding.
        threads: CPU threads of a rank.
        num_cpus, num_gpus, resources: what a rank asks of Ray, ``resources`` by their custom names.
        label_selector: labels of the nodes that may take a rank.
        objective: ``crpo`` adds the winner's flow-matching loss to ``dpo_fm``.
        beta: strength of the preference term.
        learning_rate: reached after ``warmup_steps`` optimiser steps.
        schedule: what follows the warm-up: ``constant``, or ``linear``, which falls towards 0 after the last step.
        batch_size: pairs of an optimiser step, over all ranks.
        micro_batch_size: most pairs that a rank takes through one forward pass.
        max_grad_norm: gradients above this norm are scaled down to it; 0 never does.
        zero_stage: what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients, 3 weights too.
        ema_decay: decay a step of the weights' moving average, which is then what is stored; 0 keeps none.
        ema_every: steps from one update of the average to the next, which counts for all of them.
        precision: of policy and reference; the master weights are float32.
        lora_rank: rank of the LoRA adapter that is trained in place of the transformer; 0: all weights are trained.
        lora_alpha: the adapter's additions are scaled by ``lora_alpha / lora_rank``.
        activation_checkpointing: the backward pass computes activations again, which the forward pass need not keep.
        heldout_pairs: pairs that are not trained on; at most an eighth of all.
        checkpoint_every: steps from one checkpoint to the next; the last step has one too.
        timeout_s: seconds without any event after which the ranks are taken for hung and ended; 0: never.
    """

    workers: int = 1
    threads: int = 1
    num_cpus: float = 1
    num_gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict[str, float])
    label_selector: dict[str, str] = field(default_factory=dict[str, str])
    objective: Literal["crpo", "dpo_fm"] = "crpo"
    beta: float = 2000.0
    learning_rate: float = 4e-5
    schedule: Literal["constant", "linear"] = "constant"
    batch_size: int = 16
    micro_batch_size: int = 16
    epochs: int = 8
    warmup_steps: int = 10
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    zero_stage: int = 1
    ema_decay: float = 0.0
    ema_every: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    lora_rank: int = 0
    lora_alpha: float = 32.0
    activation_checkpointing: bool = False
    heldout_pairs: int = 8
    checkpoint_every: int = 100
    timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "batch_size", "micro_batch_size", "epochs", "ema_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner {name} is {getattr(self, name)}, expected at least 1")
        if self.zero_stage not in range(4):
            raise ConfigError(f"learner zero_stage is {self.zero_stage}, expected 0, 1, 2 or 3")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError("learner precision bf16 needs zero_stage 1, 2 or 3, which keep float32 master weights")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"learner ema_decay is {self.ema_decay}, expected 0 (off) or a number below 1")
        if self.lora is not None:
            self._check_lora()

    @property
    def lora(self) -> LoraSettings | None:
        """The adapter that is trained; None where all weights are."""
        return LoraSettings(self.lora_rank, self.lora_alpha) if self.lora_rank else None

    def _check_lora(self) -> None:
        if self.zero_stage == 3:
            raise ConfigError(
                "learner zero_stage 3 shards weights that LoRA does not train and the reference shares: take 0, 1 or 2"
            )
        if self.ema_decay:
            raise ConfigError(
                f"learner ema_decay {self.ema_decay} would average LoRA's factors, whose product is not the average of "
                "the weights: take ema_decay 0 or lora_rank 0"
            )

    def average_decay(self, step: int) -> float:
        """What the moving average keeps of itself at ``step``: little at first, so that it forgets the start."""
        return min(self.ema_decay, (1 + step) / (10 + step)) ** self.ema_every

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step ``step``, from 1 to ``steps``."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        left = (steps - step + 1) / (steps - self.warmup_steps)
        return self.learning_rate * (left if self.schedule == "linear" else 1.0)


@dataclass(frozen=True)
class Pretraining:
    """What pretraining has beside the settings that it shares with alignment.

    Attributes:
        clips_dir: what jobs/prepare.py wrote.
        samples: directory of the audio sampled on the way.
        prompts: what is sampled: texts and seconds.
        num_steps, guidance_scale: how.
        max_steps: optimiser steps, if fewer than all epochs have; 0 is no limit.
        from_scratch: whether transformer, ``fc`` and duration embedder begin with random weights.
        train_text_encoder: whether the text encoder is trained too.
        caption_dropout: share of clips that are trained without their caption, as guidance needs.
        sample_posterior: whether latents are drawn from the codec's posterior; else its mean is taken.
        heldout_clips: clips that are validated on and not trained on; at most an eighth.
        validate_every, sample_every: steps from one to the next; both follow the last step.
    """

    clips_dir: Path
    samples: Path
    prompts: tuple[tuple[str, float], ...] = ()
    num_steps: int = 50
    guidance_scale: float = 4.5
    max_steps: int = 0
    from_scratch: bool = False
    train_text_encoder: bool = False
    caption_dropout: float = 0.1
    sample_posterior: bool = True
    heldout_clips: int = 64
    validate_every: int = 500
    sample_every: int = 500


@dataclass(frozen=True)
class LearnerJob:
    """What a rank needs to know; paths are absolute and seen by all ranks, and so are places in an object store.

    Attributes:
        weights: what the training writes at its end.
        checkpoints: directory of the states to go on from.
    """

    policy_dir: Path | ObjectStorePath
    weights: Path | ObjectStorePath
    checkpoints: Path | ObjectStorePath
    settings: LearnerSettings
    seed: int
    iteration: int
    pretraining: Pretraining | None = None


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
        restarts: how often ranks died and the training went on from its last checkpoint.
        seconds: from start to end, start-up of the ranks included.
    """

    weights: Path | ObjectStorePath
    start: dict[str, float]
    end: dict[str, float]
    grad_norm: dict[str, dict[str, float]]
    heldout_pair_accuracy: float | None
    pairs: int
    steps: int
    restarts: int
    seconds: float


@dataclass(frozen=True)
class PretrainingResult:
    """A pretraining.

    Attributes:
        weights: a safetensors file of what was trained, as in ``LearnerResult``.
        clips: clips that were trained on.
        steps: optimiser steps.
        restarts: see ``LearnerResult``.
        seconds: from start to end, start-up of the ranks included.
    """

    weights: Path
    clips: int
    steps: int
    restarts: int
    seconds: float
