"""Measures the best of N samples by a run's reward, of its base policy and of its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from actors.cluster.session import ray_session
from actors.storage.layout import POLICIES
from actors.storage.policy_store import version_name
from jobs.benchmarks.alignment.heldout import DIVERSITY, Figures, Heldout, heldout_of, measure_remotely
from jobs.options.bench import BestOfOptions
from jobs.options.crpo import load_config
from jobs.reporting.comparison import result_of
from jobs.reporting.display import Display
from jobs.reporting.formatting import format_with_error
from tangoflux.errors import DataError
from tangoflux.estimates import mean_and_error, row_means
from tangoflux.rewards.ranking import best_of
from tangoflux.soundworld.prompt_kinds import combination

PART_PROMPTS = 32
"""Prompts of a task; each loads the models."""

PerPrompt = Mapping[str, NDArray[np.float64]]
"""By figure (P,)."""


def run(options: BestOfOptions) -> None:
    """Measures, and prints the table."""
    runs: list[dict[str, PerPrompt]] = []
    results = {directory: result_of(directory) for directory in options.run_dirs}
    heldouts = [heldout_of(load_config(["--run-dir", str(run), "--resume"]), options) for run in results]
    prompts = heldouts[0].prompts
    for run, heldout in zip(results, heldouts, strict=True):
        if heldout.prompts != prompts:
            raise DataError(f"{run} has another --heldout-seed than {options.run_dirs[0]}: they cannot be compared")
    count = 2 * len(results) * len(prompts) * options.heldout_num_samples
    with Display() as display, ray_session(), display.stage(0, "held-out prompts", count) as stage:
        for (directory, result), heldout in zip(results.items(), heldouts, strict=True):
            rows: dict[str, PerPrompt] = {}
            for name, version in (("base", 0), ("aligned", result)):
                figures = sample(directory / POLICIES / version_name(version), heldout, stage.advance)
                rows |= {
                    f"{name}, best of {size}": {
                        figure: best_of(figures["reward"], values, size)
                        for figure, values in figures.items()
                        if figure != DIVERSITY
                    }
                    for size in options.sizes
                }
            runs.append(rows)
    print(table(runs, [prompt.text for prompt in prompts]))


def sample(policy: Path, heldout: Heldout, advance: Any) -> Figures:
    """The figures of all samples of a policy, measured in several processes."""
    parts = [
        dataclasses.replace(heldout, prompts=heldout.prompts[first : first + PART_PROMPTS])
        for first in range(0, len(heldout.prompts), PART_PROMPTS)
    ]
    pending = [measure_remotely.remote(policy.resolve(), part) for part in parts]
    measured: list[Figures] = []
    for task, part in zip(pending, parts, strict=True):
        measured.append(ray.get(task))
        advance(len(part.prompts) * part.num_samples)
    return {name: np.concatenate([figures[name] for figures in measured]) for name in measured[0]}


def table(runs: Sequence[Mapping[str, PerPrompt]], prompts: Sequence[str]) -> str:
    """Markdown: the first row's means over the runs, then each row's paired change from it.

    Errors are over prompts, clustered by pair of sounds, as all runs have the same base.
    """
    clusters = [combination(prompt) for prompt in prompts]
    rows = {
        row: {name: row_means(np.stack([run[row][name] for run in runs], 1)) for name in figures}
        for row, figures in runs[0].items()
    }
    first, *others = rows
    names = list(rows[first])
    lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    means = [format_with_error(mean_and_error(values)[0], None) for values in rows[first].values()]
    lines.append(f"| {first} | {' | '.join(means)} |")
    for row in others:
        changes = [mean_and_error(rows[row][name] - rows[first][name], clusters) for name in names]
        lines.append(f"| {row} | {' | '.join(format_with_error(*change, sign=True) for change in changes)} |")
    return "\n".join(lines)
