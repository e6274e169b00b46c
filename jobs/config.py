"""Options of a CRPO run: every default, unit and range stands here, and `python jobs/crpo.py --help` shows them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from actors.anywhere import cache_dir
from actors.command_line import load_options
from actors.options import Options, option
from actors.place_options import CustomResources, LabelSelector, label_selector_option, resources_option
from actors.pool_size import ALLOWED, PoolSize
from actors.storage import Place, place_of
from tangoflux.precision import Precision

CONFIGS = Path(__file__).parent / "configs"
"""The configs that come with the project."""

CONFIG_FILE = "config.yaml"
"""A run's options as resolved, in its directory."""

DESCRIPTION = """\
Aligns a text-to-audio policy by CLAP-ranked preference optimization (CRPO). In each iteration the policy samples
several audios for each prompt, a reward model ranks them, best and worst become preference pairs, and the policy is
trained on the pairs. Without options it aligns the embedded miniature on this machine in a few minutes."""

EXAMPLES = """\
examples:
  python jobs/crpo.py                                        the embedded default; needs no GPU and no network
  python jobs/crpo.py --prompts mine.txt --iterations 5      your own prompts, one a line
  python jobs/crpo.py --objective dpo_fm --data offline      what CRPO is compared with in the paper
  python jobs/crpo.py --run-dir runs/a --resume              go on where a run stopped
  python jobs/crpo.py --config my.yaml --beta 1000           options from a file; the command line wins
"""


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

    num_steps: int = option(12, "Euler steps from noise to latents", unit="steps", ge=1, le=1000)
    guidance_scale: float = option(3.0, "classifier-free guidance; 1 is none", ge=0, le=100)
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


class HeldoutOptions(Options):
    """Held-out prompts, sampled with the same noise after every iteration."""

    num_prompts: int = option(64, "held-out prompts", flag="heldout-num-prompts", unit="prompts", ge=1)
    seed: int = option(1234, "seed of held-out prompts and their noise", flag="heldout-seed", ge=0)
    listening: int = option(12, "held-out prompts whose audio is kept and shown", unit="prompts", ge=0)


Objective = Literal["crpo", "dpo_fm"]

LOCAL_PATH = "a path on this machine's file system"


def local_path(path: Path | None) -> Path | None:
    """A path as an option gives it, with ``~`` resolved; for field validators."""
    if path is not None and ":/" in str(path):
        raise ValueError("a URI")
    return None if path is None else path.expanduser()


def _new_run_dir() -> Path:
    return Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S")


RunDir = Annotated[
    Path | Place,
    BeforeValidator(lambda value: place_of(str(value))),
    PlainSerializer(str, return_type=str),
]


class RunConfig(Options):
    """All options of a CRPO run."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    run_dir: RunDir = option(
        _new_run_dir,
        "directory that the run writes, or s3://bucket/prefix or gs://bucket/prefix",
        default_text="runs/<date-time>",
        allowed="a path, or s3://bucket/prefix or gs://bucket/prefix",
        may_change=True,
    )
    resume: bool = option(
        False, "go on with the run in --run-dir from its last whole stage, with its options", may_change=True
    )
    init_policy: str = option(
        "miniature", "policy to align: a directory, a name or owner/name on the hub", min_length=1
    )
    prompts: Path | None = option(
        None,
        "prompt bank: .txt, one a line, or .jsonl or .csv with prompt, duration_s, id",
        default_text="the sound world's",
        allowed=LOCAL_PATH,
    )
    heldout_prompts: Path | None = option(
        None, "held-out prompts, a file as for --prompts", default_text="the sound world's", allowed=LOCAL_PATH
    )
    heldout_split: Literal["dev", "test"] = option("dev", "which of the sound world's held-out prompts")
    seed: int = option(0, "seed of the prompts drawn, all noise and the learner's order", ge=0, lt=2**63)
    iterations: int = option(3, "rounds of rollouts and training", unit="iterations", ge=1, le=9999, may_change=True)
    prompts_per_iteration: int = option(256, "prompts drawn in an iteration", unit="prompts", ge=1)
    samples_per_prompt: int = option(
        4,
        "audios sampled for each prompt",
        unit="samples",
        ge=2,
        le=1000,
        why="a preference pair is the best and the worst of a prompt's samples, so a single sample makes none",
    )
    wandb_project: str | None = option(
        None, "Weights & Biases project that gets scalars and audio too", may_change=True, min_length=1
    )
    keep_policies: int = option(
        0, "policies of the last iterations that are kept, beside the base; 0: all", ge=0, may_change=True
    )
    keep_latents: int = option(
        0,
        "last iterations whose latents are kept; of others prompts, seeds and rewards stay; 0: all",
        unit="iterations",
        ge=0,
        may_change=True,
    )
    objective: Objective = option("crpo", "crpo adds the winner's flow-matching loss to dpo_fm")
    data: Literal["online", "offline"] = option("online", "offline trains every iteration on the first one's pairs")
    sampling: SamplingOptions = SamplingOptions()
    rollouts: RolloutOptions = RolloutOptions()
    rewards: RewardOptions = RewardOptions()
    learner: LearnerOptions = LearnerOptions()
    heldout: HeldoutOptions = HeldoutOptions()

    @field_validator("prompts", "heldout_prompts")
    @classmethod
    def _local(cls, path: Path | None) -> Path | None:
        return local_path(path)

    @model_validator(mode="after")
    def _goes_together(self) -> RunConfig:
        problem = next(_contradictions(self), None)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def training_pairs(self) -> int:
        """The most pairs that an iteration can train on."""
        return self.prompts_per_iteration - min(self.learner.heldout_pairs, self.prompts_per_iteration // 8)

    @property
    def max_steps(self) -> int:
        """The most optimiser steps of an iteration."""
        return self.learner.epochs * math.ceil(self.training_pairs / self.learner.batch_size)


def load_config(argv: Sequence[str] | None = None) -> RunConfig:
    """The options of this run: command line before ``--config`` before defaults.

    With ``--resume`` and without ``--config`` the run's own config.yaml stands in the place of ``--config``.

    Raises:
        ConfigError: an unknown option or key, or a value that is not allowed; one line that names it and the fix.
    """
    return load_options(
        RunConfig,
        argv,
        program="python jobs/crpo.py",
        description=DESCRIPTION,
        examples=EXAMPLES,
        shipped=shipped_configs("default", "tangoflux", "cluster"),
        file_without_config=_config_to_resume,
    )


def shipped_configs(*names: str) -> dict[str, Path]:
    """Configs that ``--config`` finds by name."""
    return {name: CONFIGS / f"{name}.yaml" for name in names}


def stored_config(run_dir: Path | Place) -> Path | None:
    """A run's config.yaml, from an object store as a copy; None where there is no run.

    Raises:
        ResourceError: the store does not answer.
    """
    file = run_dir / CONFIG_FILE
    if isinstance(file, Path):
        return file if file.is_file() else None
    if file.size("") is None:
        return None
    copy = cache_dir() / "configs" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:16]}.yaml"
    file.fetch("", copy)
    return copy


def _config_to_resume(arguments: Mapping[str, Any]) -> Path | None:
    if arguments.get("resume") is not True or "run_dir" not in arguments:
        return None
    return stored_config(place_of(str(arguments["run_dir"])))


def _contradictions(config: RunConfig) -> Iterator[str]:
    learner = config.learner
    if config.resume and "run_dir" not in config.model_fields_set:
        yield "--resume needs --run-dir, which says what to go on with"
    if config.training_pairs < learner.workers:
        yield (
            f"--prompts-per-iteration {config.prompts_per_iteration} gives at most {config.training_pairs} pairs to "
            f"train on, less than one for each of {learner.workers} learner workers; raise it, or lower "
            "--learner-workers"
        )
    if learner.batch_size < learner.workers:
        yield (
            f"--batch-size {learner.batch_size} is less than one pair for each of {learner.workers} learner workers; "
            "raise it, or lower --learner-workers"
        )
    if config.max_steps <= learner.warmup_steps:
        yield (
            f"--warmup-steps {learner.warmup_steps} is not below the {config.max_steps} steps of an iteration "
            f"({learner.epochs} epochs of {config.training_pairs} pairs in batches of {learner.batch_size}), so the "
            "learning rate would never be reached; lower it, or raise --epochs"
        )
    if config.heldout.listening > config.heldout.num_prompts:
        yield (
            f"--listening {config.heldout.listening} is more than the {config.heldout.num_prompts} held-out prompts; "
            "lower it, or raise --heldout-num-prompts"
        )
