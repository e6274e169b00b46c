"""Sections of options that several jobs share, with their defaults, units and ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from actors.learner.objectives import OBJECTIVES, OPTIONS
from actors.options.pool_size import PoolSize
from actors.options.reward_combination import RewardCombination
from actors.options.scheduling import (
    ANY_NODE,
    CustomResources,
    ElasticNumWorkers,
    LabelSelector,
    NumCpus,
    NumGpus,
    NumWorkers,
    Threads,
    WorkerTimeout,
)
from actors.options.schema import REQUIRED, Options, option
from actors.storage.object_store import Location, parse_path
from tangoflux.data.text_rows import has_surrogate
from tangoflux.errors import ConfigError
from tangoflux.sampling_params import MAX_GUIDANCE_SCALE, MAX_NUM_STEPS, MIN_DURATION_S, MINIATURE_PARAMS, Precision

CONFIGS = Path(__file__).parent / "configs"
"""The configs that come with the project."""


def shipped_configs(*names: str) -> dict[str, Path]:
    """Configs that ``--config`` finds by name."""
    return {name: CONFIGS / f"{name}.yaml" for name in names}


if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]
Objective = Annotated[
    ObjectiveName, option(REQUIRED, "; ".join(f"{name}: {info.description}" for name, info in OBJECTIVES.items()))
]

LatentsDtype = Annotated[Literal["float32", "float16"], option(REQUIRED, "type in which latents are stored")]


def _named(text: str) -> str:
    """Refuses names that files of options, Ray and TensorBoard cannot hold."""
    if has_surrogate(text) or "\0" in text:
        raise ConfigError(f"the name {text!r} is not UTF-8 text; rename it, or make a link to it and name that")
    return text


def _local(path: Path) -> Path:
    if ":/" in _named(str(path)):
        raise ValueError("a URI")
    return path.expanduser()


RunDir = Annotated[
    Location, BeforeValidator(lambda value: parse_path(_named(str(value)))), PlainSerializer(str, return_type=str)
]
"""A run's directory on this machine or its URI in an object store."""

LocalPath = Annotated[Path, AfterValidator(_local)]
"""A path on this machine, not a URI; ``~`` is resolved."""


NumSteps = Annotated[int, option(REQUIRED, "Euler steps from noise to latents", unit="steps", ge=1, le=MAX_NUM_STEPS)]
GuidanceScale = Annotated[
    float, option(REQUIRED, "classifier-free guidance; 1 or less: none", ge=0, le=MAX_GUIDANCE_SCALE)
]
NegativePrompt = Annotated[str, option(REQUIRED, "what guidance steers away from")]


class SamplerOptions(Options):
    """How the policy samples."""

    num_steps: NumSteps = MINIATURE_PARAMS.num_steps
    guidance_scale: GuidanceScale = MINIATURE_PARAMS.guidance_scale
    negative_prompt: NegativePrompt = MINIATURE_PARAMS.negative_prompt


class SamplingOptions(SamplerOptions):
    """How the policy samples, in rollouts and on held-out prompts."""

    duration_s: float = option(
        2.0, "length of the audio for prompts without their own", unit="seconds", ge=MIN_DURATION_S
    )


class RolloutOptions(Options):
    """Workers that sample. Their number changes how long a run takes, never its data."""

    flag_prefix: ClassVar = "rollout"
    workers: ElasticNumWorkers = PoolSize(2, 2)
    chunk_prompts: int = option(16, "prompts that a worker samples together; a shard each", ge=1, prefixed=True)
    threads: Threads = 1
    num_cpus: NumCpus = 1
    num_gpus: NumGpus = 0
    resources: CustomResources = ANY_NODE
    label_selector: LabelSelector = ANY_NODE
    timeout_s: WorkerTimeout = 3600.0
    precision: Precision = option(
        "auto", "precision of the sampling; auto: bf16 if the processor has instructions for it", prefixed=True
    )
    latents_dtype: LatentsDtype = "float32"


class ScoringOptions(Options):
    """What ranks the samples."""

    flag_prefix: ClassVar = "reward"
    name: str = option(
        "miniature-clap",
        "reward model that ranks: a name, a directory, module:Class, an address or a sum",
        flag="reward",
        min_length=1,
        default_text="miniature-clap; in a run on the sound world's prompts with miniature-grounder, half each",
    )
    combination: RewardCombination = "normalised"
    workers: ElasticNumWorkers = PoolSize(1, 1)
    threads: Threads = 1
    num_cpus: NumCpus = 0
    num_gpus: NumGpus = 0
    resources: CustomResources = ANY_NODE
    label_selector: LabelSelector = ANY_NODE
    timeout_s: WorkerTimeout = 3600.0
    min_margin: float = option(
        0.0, "margin of the best reward over the worst that a preference pair must exceed", unit="reward", ge=0
    )
    max_dropped_share: float = option(
        0.2,
        "share of an iteration's groups that may be dropped for lack of rewards before the run stops",
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
        "model that checks on held-out prompts whether the audio is exactly the scene asked for",
        min_length=1,
    )

    @property
    def roles(self) -> dict[str, str]:
        """The reward models in use, by role: ``reward``, ``judge``, ``exact``."""
        models = {"reward": self.name, "judge": self.judge, "exact": self.detector}
        return {role: name for role, name in models.items() if name is not None}


class CodecOptions(Options):
    """Workers that run the policy's codec."""

    flag_prefix: ClassVar = "codec"
    workers: NumWorkers = 1
    threads: Threads = 1
    num_cpus: NumCpus = 1
    num_gpus: NumGpus = 0


class CodecPoolOptions(CodecOptions):
    """Workers that run the policy's codec."""

    resources: CustomResources = ANY_NODE
    label_selector: LabelSelector = ANY_NODE
    timeout_s: WorkerTimeout = 3600.0


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
    learning_rate: LearningRate = 4e-4
    schedule: Schedule = "constant"
    batch_size: BatchSize = 32
    micro_batch_size: MicroBatchSize = 16
    epochs: Epochs = 3
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
    """The defaults of an option by objective: ``crpo, dpo_fm 300``."""
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
    heldout_pairs: int = option(
        8, "pairs to measure instead of training on; at most an eighth of an iteration's", unit="pairs", ge=0
    )

    def objective_options(self) -> dict[str, Any]:
        """The options of objectives; None where the objective's default applies."""
        return {name: getattr(self, name) for name in OPTIONS}
