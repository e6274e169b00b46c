"""The learner's inputs and results. Without torch, as Ray Train's controller process reads them too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.learner.objectives import Objective
from actors.storage.object_store import Location
from tangoflux.errors import ConfigError
from tangoflux.model.lora import LoraSettings
from tangoflux.sampling_params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """How a policy is trained, on whatever data. Defaults and ranges are those of the options (``jobs/options``).

    Attributes:
        workers: ranks of the data-parallel training; the result is the same for any number, to rounding.
        threads: CPU threads of a rank.
        num_cpus, num_gpus, resources: what a rank requests from Ray; ``resources`` are custom ones by name.
        label_selector: labels of the nodes that may run a rank.
        learning_rate: peak, reached after ``warmup_steps`` optimiser steps.
        schedule: what follows the warm-up: ``constant``, or ``linear``, which falls towards 0 after the last step.
        batch_size: rows of an optimiser step, over all ranks.
        micro_batch_size: the most clips or pairs in one forward pass of a rank; of groups so many that they have as
            many samples as the pairs, but at least one.
        max_grad_norm: gradients above this norm are scaled down to it; 0: never.
        zero_stage: what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients too, 3 weights too.
        ema_decay: decay per step of the weights' moving average, which is then what is stored; 0: no average.
        ema_every: steps between two updates of the average; each update accounts for all of them.
        precision: of policy and reference; the master weights are float32.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.
        checkpoint_every: steps between two checkpoints; the last step has one too.
        timeout_s: seconds without an event after which the ranks count as hung and are killed; 0: never.

    Raises:
        ConfigError: bf16 weights without a ZeRO stage that keeps float32 masters.
    """

    workers: int
    threads: int
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    label_selector: dict[str, str]
    learning_rate: float
    schedule: Literal["constant", "linear"]
    batch_size: int
    micro_batch_size: int
    epochs: int
    warmup_steps: int
    max_grad_norm: float
    weight_decay: float
    adam_betas: tuple[float, float]
    zero_stage: int
    ema_decay: float
    ema_every: int
    precision: Literal["fp32", "bf16"]
    activation_checkpointing: bool
    checkpoint_every: int
    timeout_s: float

    def __post_init__(self) -> None:
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ConfigError("learner precision bf16 needs zero_stage 1, 2 or 3, which keep float32 master weights")

    @property
    def lora(self) -> LoraSettings | None:
        """The adapter that is trained instead of the transformer; None: all weights are trained."""
        return None

    def average_decay(self, step: int) -> float:
        """The decay of the moving average at ``step``: small at first, so that it forgets the start."""
        return min(self.ema_decay, (1 + step) / (10 + step)) ** self.ema_every

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step ``step``, from 1 to ``steps``."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        left = (steps - step + 1) / (steps - self.warmup_steps)
        return self.learning_rate * (left if self.schedule == "linear" else 1.0)


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(LearnerSettings):
    """How a policy is aligned to the pairs or groups of an iteration.

    Attributes:
        objective: what is learned from a group of samples.
        lora_rank: rank of the LoRA adapter that is trained instead of the transformer; 0: all weights are trained.
        lora_alpha: the adapter's output is scaled by ``lora_alpha / lora_rank``.
        heldout_pairs: pairs or groups that are not trained on; at most an eighth of all.
        min_margin: groups whose rewards differ by no more are left out, as they make no pair.
        group_share: share of the groups that are trained on, those with the largest margins.

    Raises:
        ConfigError: LoRA together with ZeRO stage 3 or a moving average.
    """

    objective: Objective
    lora_rank: int
    lora_alpha: float
    heldout_pairs: int
    min_margin: float = 0.0
    group_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora is None:
            return
        if self.zero_stage == 3:
            raise ConfigError(
                "learner zero_stage 3 shards weights that LoRA does not train and the reference shares: use 0, 1 or 2"
            )
        if self.ema_decay:
            raise ConfigError(
                f"learner ema_decay {self.ema_decay} would average LoRA's factors, whose product is not the average of "
                "the weights: use ema_decay 0 or lora_rank 0"
            )

    @property
    def lora(self) -> LoraSettings | None:
        """See ``LearnerSettings``."""
        return LoraSettings(self.lora_rank, self.lora_alpha) if self.lora_rank else None


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(LearnerSettings):
    """How a policy is trained on prepared clips by flow matching.

    Attributes:
        clips_dir: the output directory of jobs/prepare.py.
        samples_dir: directory of the audio that is sampled during the training.
        prompts: what is sampled: captions and durations in seconds.
        sampling: how it is sampled.
        max_steps: optimiser steps, if fewer than the epochs have.
        from_scratch: whether transformer, ``fc`` and duration embedder start from random weights.
        train_text_encoder: whether the text encoder is trained too.
        group_by_length: whether a batch has clips of similar length, which saves padding.
        caption_dropout: share of clips that are trained without their caption, which guidance needs.
        sample_posterior: whether latents are drawn from the codec's posterior; otherwise they are its mean.
        heldout_clips: clips for validation, which are not trained on; at most an eighth of all.
        validate_every, sample_every: steps between two validations and two sets of samples; both follow the last step.
    """

    clips_dir: Path
    samples_dir: Path
    prompts: tuple[tuple[str, float], ...]
    sampling: SamplingParams
    max_steps: int | None
    from_scratch: bool
    train_text_encoder: bool
    group_by_length: bool
    caption_dropout: float
    sample_posterior: bool
    heldout_clips: int
    validate_every: int
    sample_every: int


@dataclass(frozen=True)
class LearnerJob:
    """What a rank needs to know. All ranks see the same files under these absolute paths or object-store paths.

    Attributes:
        policy_dir: the policy at the start, in the published layout.
        weights: the file that the training writes at its end.
        checkpoints: directory of the checkpoints that an interrupted training resumes from.
        data_dir: the shards of pairs or scored rollouts of an alignment.
    """

    policy_dir: Location
    weights: Location
    checkpoints: Location
    settings: AlignmentSettings | PretrainingSettings
    seed: int
    iteration: int
    data_dir: Location | None = None


@dataclass(frozen=True)
class LearnerResult:
    """The result of aligning a policy in one iteration.

    Attributes:
        weights: a safetensors file of what was trained, float32, by the published names, for ``PolicyStore.publish``.
            Text encoder and codec are unchanged.
        start, end: ``winner``, ``loser``, ``implicit_accuracy`` and ``margin`` on the same pairs and noise before and
            after training.
        grad_norm: ``{term: {"start", "end"}}``, of each term of the loss alone on these pairs.
        heldout_pair_accuracy: share of held-out pairs that the new policy ranks as the reward did; None without any.
        pairs: pairs that were trained on.
        steps: optimiser steps.
        restarts: how often ranks died and the training resumed from its last checkpoint.
        seconds: wall time, start-up of the ranks included.
    """

    weights: Location
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
    """The result of a pretraining.

    Attributes:
        clips: clips that were trained on.
        weights, steps, restarts, seconds: see ``LearnerResult``.
    """

    weights: Path
    clips: int
    steps: int
    restarts: int
    seconds: float
