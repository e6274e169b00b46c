"""Options of `python jobs/crpo.py`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from actors.learner.objectives import make_objective
from actors.learner.schedule import check_warmup, num_steps, num_trained
from actors.options.command_line import Command, load_options
from actors.options.schema import Options, option
from actors.storage.object_store import ObjectStorePath, parse_path
from actors.storage.paths import cache_dir
from jobs.options.learner import LearnerOptions
from jobs.options.sections import (
    LocalPath,
    Objective,
    RewardOptions,
    RolloutOptions,
    RunDir,
    SamplingOptions,
    shipped_configs,
)

CONFIG_FILE = "config.yaml"
"""The file in a run's directory with all its options."""

SOUND_WORLD_REWARD = {
    "name": "miniature-clap+2*miniature-grounder",
    # The raw sum differs most where a sound is missing; those groups are trained on (--group-share).
    "combination": "sum",
}

DESCRIPTION = """\
Aligns a text-to-audio policy by CLAP-ranked preference optimization (CRPO). In each iteration the policy samples
several audios for each prompt, a reward model ranks them, best and worst become preference pairs, and the policy is
trained on the pairs. Without options it aligns the embedded miniature on this machine in a few minutes."""

EXAMPLES = """\
examples:
  python jobs/crpo.py                                        the embedded default; needs no GPU and no network
  python jobs/crpo.py --prompts mine.txt --iterations 5      your own prompts, one a line
  python jobs/crpo.py --objective dpo_fm --data offline      a baseline of the paper
  python jobs/crpo.py --run-dir runs/a --resume              resume a run that stopped
  python jobs/crpo.py --config my.yaml --beta 1000           options from a file; the command line wins
"""


Figure = Literal[
    "reward",
    "judge",
    "recall",
    "precision",
    "background",
    "count",
    "order",
    "overlap",
    "all_kinds",
    "set_exact",
    "exact",
]
"""A figure of the held-out prompts, see ``jobs.reporting.figures``."""


class HeldoutOptions(Options):
    """Held-out prompts, sampled with the same noise after every iteration."""

    flag_prefix: ClassVar = "heldout"
    num_prompts: int = option(64, "number of held-out prompts", unit="prompts", ge=1, prefixed=True)
    seed: int = option(1234, "seed of the held-out prompts and their noise", ge=0, prefixed=True)
    num_audio_samples: int = option(
        12, "held-out prompts whose audio is kept and shown in the report", unit="prompts", ge=0
    )


def _new_run_dir() -> Path:
    return Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S")


class RunConfig(Options):
    """All options of a CRPO run."""

    run_dir: RunDir = option(
        _new_run_dir,
        "the run's directory, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        default_text="runs/<date-time>",
        allowed="a path, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        may_change=True,
    )
    resume: bool = option(
        False, "resume the run in --run-dir after its last complete stage, with its options", may_change=True
    )
    init_policy: str = option(
        "miniature", "policy to align: a directory, a name or owner/name on the hub", min_length=1
    )
    prompts: LocalPath | None = option(
        None,
        "prompt bank: .txt, one a line, or .jsonl or .csv with prompt, duration_s, id",
        default_text="the sound world's",
    )
    heldout_prompts: LocalPath | None = option(
        None, "held-out prompts, a file like --prompts", default_text="the sound world's"
    )
    heldout_split: Literal["dev", "test"] = option("dev", "which of the sound world's held-out prompts")
    seed: int = option(0, "seed of the prompts drawn, all noise and the learner's data order", ge=0, lt=2**63)
    iterations: int = option(2, "rounds of rollouts and training", unit="iterations", ge=1, le=9999, may_change=True)
    prompts_per_iteration: int = option(384, "prompts drawn in an iteration", unit="prompts", ge=1)
    num_samples: int = option(
        4,
        "audios sampled for each prompt",
        unit="samples",
        ge=2,
        le=1000,
        why="a preference pair is the best and the worst of a prompt's samples, so one sample makes no pair",
    )
    wandb_project: str | None = option(
        None, "Weights & Biases project that also receives scalars and audio", may_change=True, min_length=1
    )
    keep_policies: int = option(
        0, "number of latest policies to keep, in addition to the base policy; 0: all", ge=0, may_change=True
    )
    on_alarm: Literal["warn", "stop"] = option(
        "warn",
        "what follows when the reward rises while the judge or an aspect falls by more than its error in two "
        "iterations running",
        may_change=True,
    )
    keep_best: Figure | None = option(
        None,
        "after such an alarm, go back to the policy with the best held-out value of this figure and continue from it; "
        "at the end, name that policy as the run's result",
        default_text="the last policy is the result",
    )
    keep_latents: int = option(
        0,
        "number of latest iterations whose latents are kept; others keep prompts, seeds and rewards; 0: all",
        unit="iterations",
        ge=0,
        may_change=True,
    )
    objective: Objective = "crpo"
    data: Literal["online", "offline"] = option("online", "offline: every iteration trains on the first one's pairs")
    sampling: SamplingOptions = SamplingOptions()
    rollouts: RolloutOptions = RolloutOptions()
    rewards: RewardOptions = RewardOptions()
    learner: LearnerOptions = LearnerOptions()
    heldout: HeldoutOptions = HeldoutOptions()

    @model_validator(mode="before")
    @classmethod
    def _choose_reward(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Without a reward: the grounder reads the sound world's captions only, so other prompts are CLAP's alone."""
        rewards = values.get("rewards", {})
        if values.get("prompts") is not None or not isinstance(rewards, dict) or "name" in rewards:
            return values
        return {**values, "rewards": {**SOUND_WORLD_REWARD, **rewards}}

    @model_validator(mode="after")
    def _check_consistency(self) -> RunConfig:
        make_objective(self.objective, self.learner.objective_options()).check_group_size(self.num_samples)
        problem = next(_contradictions(self), None)
        if problem:
            raise ValueError(problem)
        learner, pairs = self.learner, self.training_pairs
        described_as = f"an iteration ({learner.epochs} epochs of {pairs} pairs in batches of {learner.batch_size})"
        check_warmup(learner.warmup_steps, self.max_steps, described_as)
        return self

    @property
    def training_pairs(self) -> int:
        """Largest number of pairs that an iteration can train on."""
        return num_trained(self.prompts_per_iteration, self.learner.heldout_pairs, self.learner.group_share)

    @property
    def max_steps(self) -> int:
        """Largest number of optimiser steps in an iteration."""
        return num_steps(self.training_pairs, self.learner.batch_size, self.learner.epochs)


def load_config(argv: Sequence[str] | None = None) -> RunConfig:
    """Loads a run's options: from the command line, then ``--config``, then the defaults.

    With ``--resume`` and without ``--config`` the run's own config.yaml takes the place of ``--config``.

    Raises:
        ConfigError: an unknown option or key, or a value that is not allowed; one line that names it and the fix.
    """
    return load_options(RunConfig, COMMAND, argv)


def stored_config(run_dir: Path | ObjectStorePath) -> Path | None:
    """A run's config.yaml, copied to this machine if it is in an object store; None if there is no run.

    Raises:
        ResourceError: the store does not answer.
    """
    file = run_dir / CONFIG_FILE
    if isinstance(file, Path):
        return file if file.is_file() else None
    if file.size() is None:
        return None
    copy = cache_dir() / "configs" / f"{hashlib.sha256(str(file).encode()).hexdigest()[:16]}.yaml"
    file.fetch(copy)
    return copy


def _config_to_resume(arguments: Mapping[str, Any]) -> Path | None:
    if arguments.get("resume") is not True or "run_dir" not in arguments:
        return None
    return stored_config(parse_path(str(arguments["run_dir"])))


def _contradictions(config: RunConfig) -> Iterator[str]:
    learner = config.learner
    if config.resume and "run_dir" not in config.model_fields_set:
        yield "--resume needs --run-dir, which names the run to resume"
    if config.training_pairs < learner.workers:
        yield (
            f"--prompts-per-iteration {config.prompts_per_iteration} makes at most {config.training_pairs} pairs to "
            f"train on, less than one for each of {learner.workers} learner workers; raise it, or lower "
            "--learner-workers"
        )
    if learner.batch_size < learner.workers:
        yield (
            f"--batch-size {learner.batch_size} is less than one pair for each of {learner.workers} learner workers; "
            "raise it, or lower --learner-workers"
        )
    if config.heldout.num_audio_samples > config.heldout.num_prompts:
        yield (
            f"--num-audio-samples {config.heldout.num_audio_samples} is more than the "
            f"{config.heldout.num_prompts} held-out prompts; lower it, or raise --heldout-num-prompts"
        )


COMMAND = Command(
    "python jobs/crpo.py",
    DESCRIPTION,
    EXAMPLES,
    shipped_configs("default", "tangoflux", "cluster"),
    _config_to_resume,
)
