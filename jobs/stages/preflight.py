"""What a run checks and reads before anything is started or written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jobs.capacity.model_facts import read_model_facts
from jobs.capacity.plan import Plan, check_plan, make_plan
from jobs.options.crpo import RunConfig
from jobs.reporting.wandb_tracker import check_wandb
from jobs.stages.pools import alignment_settings
from jobs.stages.run_dir import check_run_dir
from tangoflux.data.prompts import Prompt, PromptFile, draw_prompts
from tangoflux.errors import ConfigError
from tangoflux.model.layout import find_directory
from tangoflux.rewards.registry import check_reward
from tangoflux.soundworld.bank import bank

BANK_SIZE, BANK_SEED = 4096, 0
"""The sound world's CRPO prompts."""

Bank = PromptFile | list[Prompt]
"""A user's file, or the sound world's prompts."""


@dataclass(frozen=True)
class Inputs:
    """What a run works on; ``served`` are the checkpoints of rewards over HTTP, by address."""

    policy_dir: Path
    prompts: Bank
    heldout: list[Prompt]
    max_frames: int
    channels: int
    plan: Plan
    served: dict[str, str]


def run_preflight(config: RunConfig) -> Inputs:
    """Checks options, files, machine and run directory, and reads the prompts; writes nothing.

    Raises:
        TangoFluxError: the first thing that would end the run later.
    """
    check_run_dir(config)
    if config.wandb_project:
        check_wandb()
    alignment_settings(config.objective, config.learner)  # raises where options do not go together
    policy_dir = find_directory(config.init_policy)
    facts = read_model_facts(policy_dir)
    served = dict[str, str]()
    for name in config.rewards.roles.values():
        served |= check_reward(name)
    prompts = load_bank(config.prompts, config.sampling.duration_s, facts.max_duration_s)
    heldout = _heldout(config, facts.max_duration_s)
    draw_prompts(prompts, config.prompts_per_iteration, config.seed, 1)  # raises when the bank is too small
    plan = make_plan(config, facts)
    check_plan(plan, config.run_dir)
    return Inputs(policy_dir, prompts, heldout, facts.audio_seq_len, facts.latent_channels, plan, served)


def load_bank(file: Path | None, duration_s: float, max_duration_s: float) -> Bank:
    """The prompts of a file, or the ``BANK_SIZE`` of the sound world.

    Args:
        duration_s: seconds for prompts that name none.
        max_duration_s: longest that the policy can make.
    """
    if file is None:
        return bank("crpo", BANK_SIZE, BANK_SEED)
    return PromptFile(file, duration_s, max_duration_s)


def _heldout(config: RunConfig, max_duration_s: float) -> list[Prompt]:
    count = config.heldout.num_prompts
    if config.heldout_prompts is None:
        return bank(config.heldout_split, count, config.heldout.seed)
    prompts = PromptFile(config.heldout_prompts, config.sampling.duration_s, max_duration_s)
    if len(prompts) < count:
        raise ConfigError(
            f"{config.heldout_prompts} holds {len(prompts)} prompts, fewer than --heldout-num-prompts {count}; "
            "lower it or add prompts"
        )
    return list(islice(prompts, count))
