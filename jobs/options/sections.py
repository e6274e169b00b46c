"""Sections of options that several jobs share: every default, unit and range of theirs stands here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from actors.options.pool_size import ALLOWED, PoolSize
from actors.options.scheduling import CustomResources, LabelSelector, label_selector_option, resources_option
from actors.options.schema import Options, option
from tangoflux.sampling_params import MAX_GUIDANCE_SCALE, MAX_NUM_STEPS, Precision

Workers = Annotated[
    PoolSize,
    BeforeValidator(PoolSize.parse),
    PlainSerializer(lambda size: size.least if size.least == size.most else str(size), return_type=int | str),
]


def timeout_option(flag: str) -> Any:
    """The option by which a hung worker is known."""
    text = "a worker that takes longer for a chunk is taken for hung and replaced; 0: never"
    return option(3600.0, text, flag=flag, unit="seconds", ge=0, may_change=True)


def workers_option(number: int, description: str, flag: str) -> Any:
    """An option of type ``Workers``."""
    text = f"{description}; a range such as 1:16 grows and shrinks with the work"
    return option(PoolSize(number, number), text, flag=flag, unit="processes", allowed=ALLOWED, may_change=True)


class SamplingOptions(Options):
    """How the policy samples, in rollouts and on held-out prompts."""

    num_steps: int = option(12, "Euler steps from noise to latents", unit="steps", ge=1, le=MAX_NUM_STEPS)
    guidance_scale: float = option(3.0, "classifier-free guidance; 1 is none", ge=0, le=MAX_GUIDANCE_SCALE)
    negative_prompt: str = option("", "what guidance leads away from")
    duration_s: float = option(2.0, "length of the audio for prompts that name none", unit="seconds", gt=0)


class RolloutOptions(Options):
    """Workers that sample. Their number changes the time a run takes and never its data."""

    workers: Workers = workers_option(2, "rollout workers", flag="rollout-workers")
    chunk_prompts: int = option(
        16, "prompts that a worker samples together, and rows of a shard", flag="rollout-chunk-prompts", ge=1
    )
    threads: int = option(1, "CPU threads of a rollout worker", flag="rollout-threads", ge=1)
    num_cpus: float = option(1, "CPUs that a worker asks of Ray", flag="rollout-num-cpus", ge=0, may_change=True)
    num_gpus: float = option(0, "GPUs that a worker asks of Ray", flag="rollout-num-gpus", ge=0, may_change=True)
    resources: CustomResources = resources_option("rollout-resources")
    label_selector: LabelSelector = label_selector_option("rollout-label-selector")
    timeout_s: float = timeout_option("rollout-timeout-s")
    precision: Precision = option(
        "auto", "in which the policy samples; auto: bf16 where the processor computes in it", flag="rollout-precision"
    )
    latents_dtype: Literal["float32", "float16"] = option("float32", "how latents are stored")


class ScoringOptions(Options):
    """What ranks the samples."""

    name: str = option(
        "miniature-clap", "reward model that ranks: a name, a directory or module:Class", flag="reward", min_length=1
    )
    workers: Workers = workers_option(1, "reward workers", flag="reward-workers")
    threads: int = option(1, "CPU threads of a reward worker", flag="reward-threads", ge=1)
    num_cpus: float = option(0, "CPUs that a worker asks of Ray", flag="reward-num-cpus", ge=0, may_change=True)
    num_gpus: float = option(0, "GPUs that a worker asks of Ray", flag="reward-num-gpus", ge=0, may_change=True)
    resources: CustomResources = resources_option("reward-resources")
    label_selector: LabelSelector = label_selector_option("reward-label-selector")
    timeout_s: float = timeout_option("reward-timeout-s")
    min_margin: float = option(
        0.0, "a pair is made when the best reward exceeds the worst by more than this", unit="reward", ge=0
    )
    max_dropped_share: float = option(
        0.2,
        "share of an iteration's groups that may lack a reward before the run stops",
        ge=0,
        le=1,
        may_change=True,
    )


class RewardOptions(ScoringOptions):
    """What ranks the samples, and what only judges them."""

    judge: str | None = option(
        "miniature-judge", "independent reward model for held-out prompts, never trained against", min_length=1
    )
    detector: str | None = option(
        "miniature-detector",
        "tells for held-out prompts whether the audio is exactly the scene asked for",
        min_length=1,
    )

    @property
    def roles(self) -> dict[str, str]:
        """The reward models that are in use, by what they are used for: ``reward``, ``judge``, ``exact``."""
        models = {"reward": self.name, "judge": self.judge, "exact": self.detector}
        return {role: name for role, name in models.items() if name is not None}


class CodecOptions(Options):
    """Workers that run the policy's codec, in the jobs of one stage alone."""

    workers: int = option(1, "codec workers", flag="codec-workers", unit="processes", ge=1, may_change=True)
    threads: int = option(1, "CPU threads of a codec worker", flag="codec-threads", ge=1)
    num_cpus: float = option(1, "CPUs that a worker asks of Ray", flag="codec-num-cpus", ge=0, may_change=True)
    num_gpus: float = option(0, "GPUs that a worker asks of Ray", flag="codec-num-gpus", ge=0, may_change=True)


class CodecPoolOptions(CodecOptions):
    """Workers that run the policy's codec, in the jobs of one stage alone."""

    resources: CustomResources = resources_option("codec-resources")
    label_selector: LabelSelector = label_selector_option("codec-label-selector")
    timeout_s: float = timeout_option("codec-timeout-s")


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingOptions(Options):
    """How a policy is trained, be it aligned or pretrained."""

    workers: int = option(1, "learner ranks", flag="learner-workers", unit="processes", ge=1, may_change=True)
    threads: int = option(2, "CPU threads of a rank", flag="learner-threads", ge=1)
    num_cpus: float = option(1, "CPUs that a rank asks of Ray", flag="learner-num-cpus", ge=0, may_change=True)
    num_gpus: float = option(0, "GPUs that a rank asks of Ray", flag="learner-num-gpus", ge=0, may_change=True)
    resources: CustomResources = resources_option("learner-resources")
    label_selector: LabelSelector = label_selector_option("learner-label-selector")
    learning_rate: float = option(2e-4, "peak learning rate", gt=0, le=1)
    schedule: Literal["constant", "linear"] = option(
        "constant", "learning rate after the warm-up; linear falls to 0 at the last step"
    )
    batch_size: int = option(32, "global batch of an optimiser step", unit="pairs", ge=1)
    micro_batch_size: int = option(16, "most pairs that a rank takes through one forward pass", unit="pairs", ge=1)
    epochs: int = option(3, "passes over the pairs of an iteration", unit="epochs", ge=1)
    warmup_steps: int = option(4, "steps in which the learning rate rises to its peak", unit="steps", ge=0)
    max_grad_norm: float = option(1.0, "larger gradients are scaled down to this norm; 0 never", ge=0)
    weight_decay: float = option(0.0, "AdamW weight decay", ge=0, le=1)
    adam_betas: tuple[Beta, Beta] = option(
        (0.9, 0.95), "AdamW decay rates", allowed="two numbers of at least 0 and below 1"
    )
    zero_stage: int = option(
        1,
        "what DeepSpeed ZeRO shards over the ranks: 0 nothing, 1 optimiser, 2 gradients too, 3 weights too",
        ge=0,
        le=3,
    )
    ema_decay: float = option(0.0, "decay of the weights' moving average a step; 0 keeps none", ge=0, lt=1)
    ema_every: int = option(1, "steps from one update of the moving average to the next", unit="steps", ge=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "of policy and reference; master weights are fp32")
    activation_checkpointing: bool = option(
        False, "compute activations again in the backward pass: less memory, more time"
    )
    checkpoint_every: int = option(
        20,
        "steps from one checkpoint to the next; a training whose process dies goes on from the last",
        unit="steps",
        ge=1,
        may_change=True,
    )
    timeout_s: float = option(
        3600.0,
        "a learner without a step for so long is taken for hung and started again; 0: never",
        flag="learner-timeout-s",
        unit="seconds",
        ge=0,
        may_change=True,
    )


class LearnerOptions(TrainingOptions):
    """How the policy is trained on the preference pairs of an iteration."""

    beta: float = option(300, "strength of the preference term", gt=0)
    lora_rank: int = option(
        0, "rank of a LoRA adapter that is trained in place of the transformer; 0: all weights are trained", ge=0
    )
    lora_alpha: float = option(32.0, "LoRA's additions are scaled by this over the rank", gt=0)
    heldout_pairs: int = option(
        8, "pairs that are not trained on but measured; at most an eighth of an iteration's", unit="pairs", ge=0
    )


Objective = Literal["crpo", "dpo_fm"]

LOCAL_PATH = "a path on this machine's file system"


def local_path(path: Path | None) -> Path | None:
    """A path as an option gives it, with ``~`` resolved; for field validators."""
    if path is not None and ":/" in str(path):
        raise ValueError("a URI")
    return None if path is None else path.expanduser()
