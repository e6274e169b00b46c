"""Options of `python jobs/pretrain.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LOCAL_PATH, SamplingOptions, TrainingOptions, local_path

DESCRIPTION = """\
Trains a policy by flow matching on the clips that jobs/prepare.py made: the first two stages of the paper. It begins
with a policy that is there, or with random weights beside the text encoder and the codec of one (--from-scratch true).
On the way it measures the loss on held-out clips, samples audio to listen to, and keeps a checkpoint, from which the
same command goes on after an interruption. The output directory gets policy/, which every --policy and --init-policy
takes, samples/, metrics.jsonl, a TensorBoard log and learner/checkpoints/."""

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

    threads: int = option(2, "CPU threads of a rank", flag="learner-threads", ge=1)
    learning_rate: float = option(5e-4, "peak learning rate", gt=0, le=1)
    schedule: Literal["constant", "linear"] = option(
        "linear", "learning rate after the warm-up; linear falls to 0 at the last step"
    )
    batch_size: int = option(32, "global batch of an optimiser step", unit="clips", ge=1)
    micro_batch_size: int = option(16, "most clips that a rank takes through one forward pass", unit="clips", ge=1)
    epochs: int = option(10, "passes over the clips", unit="epochs", ge=1)
    warmup_steps: int = option(50, "steps in which the learning rate rises to its peak", unit="steps", ge=0)
    zero_stage: int = option(
        1, "what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients too", ge=0, le=2
    )
    ema_decay: float = option(0.995, "decay of the weights' moving average a step; 0 keeps none", ge=0, lt=1)


class PretrainJob(Options):
    """All options of the job."""

    clips: Path = option(REQUIRED, "directory that jobs/prepare.py wrote", allowed=LOCAL_PATH, may_change=True)
    output: Path = option(REQUIRED, "directory that gets the policy and all else", allowed=LOCAL_PATH, may_change=True)
    init_policy: str = option(
        "miniature", "policy to begin with: a directory, a name or owner/name on the hub", min_length=1
    )
    from_scratch: bool = option(False, "begin with random weights; only text encoder and codec are --init-policy's")
    train_text_encoder: bool = option(False, "train the text encoder too; the published model's is frozen")
    seed: int = option(0, "seed of random weights, order, noise and of the clips held out", ge=0, lt=2**63)
    max_steps: int | None = option(None, "optimiser steps, if fewer than the epochs have", unit="steps", ge=1)
    caption_dropout: float = option(
        0.1, "share of clips trained as guidance's unconditional branch, without their caption", ge=0, le=1
    )
    posterior: Literal["sample", "mean"] = option("sample", "which latents of the codec's posterior are trained on")
    heldout_clips: int = option(
        64, "clips that are validated on and not trained on; at most an eighth", unit="clips", ge=0
    )
    validate_every: int = option(200, "steps from one validation to the next", unit="steps", ge=1, may_change=True)
    sample_every: int = option(200, "steps from one set of samples to the next", unit="steps", ge=1, may_change=True)
    num_audio_samples: int = option(4, "captions of held-out clips that are sampled to listen to", unit="prompts", ge=0)
    sampling: SamplingOptions = SamplingOptions()
    learner: PretrainingOptions = PretrainingOptions()

    _local = field_validator("clips", "output")(local_path)
