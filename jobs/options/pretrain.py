"""Options of `python jobs/pretrain.py`."""

from __future__ import annotations

from typing import Literal

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.learner import (
    BatchSize,
    EmaDecay,
    Epochs,
    LearningRate,
    MicroBatchSize,
    Schedule,
    TrainingOptions,
    WarmupSteps,
)
from jobs.options.sections import (
    LocalPath,
    SamplerOptions,
    shipped_configs,
)

DESCRIPTION = """\
Trains a policy by flow matching on the clips that jobs/prepare.py wrote: the first two stages of the paper. It starts
from an existing policy, or from random weights and an existing policy's text encoder and codec (--from-scratch true).
Meanwhile it measures the loss on held-out clips, samples audio to listen to, and writes checkpoints, from which the
same command resumes after an interruption. The output directory contains policy/, for --policy and --init-policy of
other jobs, samples/, metrics.jsonl, a TensorBoard log and learner/checkpoints/."""

EXAMPLES = """\
examples:
  python jobs/pretrain.py --clips prepared/a --output pretrained/a
  python jobs/pretrain.py --config pretrain-wavcaps --clips prepared/wavcaps --output pretrained/wavcaps
  python jobs/pretrain.py --config finetune-audiocaps --init-policy pretrained/wavcaps/policy \\
    --clips prepared/audiocaps --output pretrained/audiocaps
then:
  python jobs/crpo.py --init-policy pretrained/a/policy
"""


class PretrainingOptions(TrainingOptions):
    """How the policy is trained on the clips."""

    learning_rate: LearningRate = 5e-4
    schedule: Schedule = "linear"
    batch_size: BatchSize = 32
    micro_batch_size: MicroBatchSize = 16
    epochs: Epochs = 10
    warmup_steps: WarmupSteps = 50
    zero_stage: int = option(
        1, "what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients too", ge=0, le=2
    )
    ema_decay: EmaDecay = 0.995


class PretrainJob(Options):
    """All options of the job."""

    clips: LocalPath = option(REQUIRED, "directory that jobs/prepare.py wrote", may_change=True)
    output: LocalPath = option(REQUIRED, "directory to write the policy and everything else to", may_change=True)
    init_policy: str = option(
        "miniature", "policy to start from: a directory, a name or owner/name on the hub", min_length=1
    )
    from_scratch: bool = option(
        False, "start from random weights, with only the text encoder and codec of --init-policy"
    )
    train_text_encoder: bool = option(False, "train the text encoder too; the published model's is frozen")
    seed: int = option(0, "seed of random weights, data order, noise and the choice of held-out clips", ge=0, lt=2**63)
    max_steps: int | None = option(None, "optimiser steps, if fewer than in --epochs", unit="steps", ge=1)
    group_by_length: bool = option(False, "clips of similar length in each batch, which saves padding")
    caption_dropout: float = option(
        0.1, "share of clips trained without their caption, for guidance's unconditional branch", ge=0, le=1
    )
    posterior: Literal["sample", "mean"] = option("sample", "which latents of the codec's posterior to train on")
    heldout_clips: int = option(
        64, "clips to validate on instead of training on; at most an eighth of all", unit="clips", ge=0
    )
    validate_every: int = option(200, "steps between validations", unit="steps", ge=1, may_change=True)
    sample_every: int = option(200, "steps between sets of samples", unit="steps", ge=1, may_change=True)
    num_audio_samples: int = option(4, "held-out captions to sample audio of, for listening", unit="prompts", ge=0)
    sampling: SamplerOptions = SamplerOptions()
    learner: PretrainingOptions = PretrainingOptions()


COMMAND = Command(
    "python jobs/pretrain.py", DESCRIPTION, EXAMPLES, shipped_configs("pretrain-wavcaps", "finetune-audiocaps")
)
