"""Sections of options that several jobs share, with their defaults, units and ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from actors.learner.objectives import OBJECTIVES
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
        default_text="miniature-clap; in a run on the sound world's prompts plus 2*miniature-grounder",
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
