"""Options of the learner: how a policy is trained, and what it learns from preferences."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from actors.learner.objectives import OBJECTIVES, OPTIONS
from actors.options.scheduling import (
    ANY_NODE,
    CustomResources,
    LabelSelector,
    NumCpus,
    NumGpus,
    NumWorkers,
    Threads,
)
from actors.options.schema import REQUIRED, Options, option

Beta = Annotated[float, Field(ge=0, lt=1)]

LearningRate = Annotated[float, option(REQUIRED, "peak learning rate", gt=0, le=1)]
Schedule = Annotated[
    Literal["constant", "linear"],
    option(REQUIRED, "learning rate after the warm-up; linear: falls to 0 at the last step"),
]
BatchSize = Annotated[int, option(REQUIRED, "global batch of an optimiser step: pairs or clips", ge=1)]
MicroBatchSize = Annotated[int, option(REQUIRED, "largest batch of a rank's forward pass: pairs or clips", ge=1)]
Epochs = Annotated[int, option(REQUIRED, "passes over the training data of an iteration", unit="epochs", ge=1)]
WarmupSteps = Annotated[
    int, option(REQUIRED, "steps over which the learning rate rises to its peak", unit="steps", ge=0)
]
EmaDecay = Annotated[
    float, option(REQUIRED, "per-step decay of the moving average of the weights; 0: no average", ge=0, lt=1)
]


class TrainingOptions(Options):
    """How a policy is trained."""

    flag_prefix: ClassVar = "learner"
    workers: NumWorkers = 1
    threads: Threads = 2
    num_cpus: NumCpus = 1
    num_gpus: NumGpus = 0
    resources: CustomResources = ANY_NODE
    label_selector: LabelSelector = ANY_NODE
    learning_rate: LearningRate = 2e-4
    schedule: Schedule = "constant"
    batch_size: BatchSize = 32
    micro_batch_size: MicroBatchSize = 16
    epochs: Epochs = 4
    warmup_steps: WarmupSteps = 4
    max_grad_norm: float = option(1.0, "norm to which larger gradients are clipped; 0: no clipping", ge=0)
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
    ema_decay: EmaDecay = 0.0
    ema_every: int = option(1, "steps between updates of the moving average", unit="steps", ge=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "of policy and reference; master weights are fp32")
    activation_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    checkpoint_every: int = option(
        20,
        "steps between checkpoints; an interrupted training resumes from the last",
        unit="steps",
        ge=1,
        may_change=True,
    )
    timeout_s: float = option(
        3600.0,
        "a learner without a step for this long counts as hung and is restarted; 0: no limit",
        unit="seconds",
        ge=0,
        prefixed=True,
        may_change=True,
    )


def _defaults(name: str) -> str:
    """The defaults of an option by objective: ``crpo, dpo_fm 30``."""
    by_value: dict[str, list[str]] = {}
    for objective, info in OBJECTIVES.items():
        if name in info.options:
            default = info.options[name]
            by_value.setdefault("none" if default is None else f"{default:g}", []).append(objective)
    return "; ".join(f"{', '.join(objectives)} {value}" for value, objectives in by_value.items())


class LearnerOptions(TrainingOptions):
    """How the policy is trained on the preference pairs of an iteration."""

    beta: float | None = option(
        None,
        "scale of the policy's implicit reward",
        gt=0,
        default_text=_defaults("beta"),
    )
    top_k: int | None = option(
        None,
        "best samples of each group that are trained on; 0: all",
        unit="samples",
        ge=0,
        default_text=_defaults("top_k"),
    )
    temperature: float | None = option(
        None,
        "of the softmax of rewards, standardised within the group, that weighs these samples; none: equal weights",
        gt=0,
        default_text=_defaults("temperature"),
    )
    advantage_clip: float | None = option(
        None,
        "largest size of an advantage, the reward standardised within the group",
        gt=0,
        default_text=_defaults("advantage_clip"),
    )
    ratio_clip: float | None = option(
        None,
        "change of the likelihood ratio beyond which a sample is not followed",
        gt=0,
        lt=1,
        default_text=_defaults("ratio_clip"),
    )
    nft_beta: float | None = option(
        None,
        "pull to the reference: share of the velocity's change in the implicit policies",
        gt=0,
        default_text=_defaults("nft_beta"),
    )
    winner_weight: float | None = option(
        None,
        "weight of the flow-matching loss of each group's best sample",
        ge=0,
        default_text="crpo 0.1; others 0",
    )
    anchor_weight: float = option(
        0.0, "weight of the mean squared difference between the velocities of policy and reference", ge=0
    )
    guided_loss: bool = option(
        True,
        "compare velocities with the guidance that the samples were drawn with; false: without, as the paper",
    )
    min_sigma: float | None = option(
        0.6,
        "the loss is at those noise levels of the sampler's steps that are not below this, where it is decided what "
        "sounds; none: logit-normal on (0, 1), as the paper",
        ge=0,
        lt=1,
    )
    lora_rank: int = option(
        0, "rank of a LoRA adapter to train instead of the transformer; 0: all weights are trained", ge=0
    )
    lora_alpha: float = option(32.0, "the adapter's output is scaled by this over the rank", gt=0)
    group_share: float = option(
        0.4,
        "share of an iteration's groups (CRPO: pairs) that are trained on, those whose best and worst sample differ "
        "most in reward; pairs without rewards are all trained on",
        gt=0,
        le=1,
    )
    heldout_pairs: int = option(
        8, "pairs to measure instead of training on; at most an eighth of an iteration's", unit="pairs", ge=0
    )

    def objective_options(self) -> dict[str, Any]:
        """The options of objectives; None where the objective's default applies."""
        return {name: getattr(self, name) for name in OPTIONS}
