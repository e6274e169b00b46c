"""The comparison of finished CRPO runs, as Markdown: what each figure gained, with runs as the unit, and each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.storage.metrics import read_history
from actors.storage.object_store import Location
from actors.storage.paths import local_file
from actors.storage.shards import shards_at
from jobs.reporting.figures import CLEAR, Entry, result_iteration
from jobs.reporting.formatting import MISSING, format_number, format_signed, format_with_error
from jobs.reporting.heldout import FACTS, heldout_figures, scores_of
from tangoflux.errors import DataError
from tangoflux.estimates import mean_and_error, row_means
from tangoflux.soundworld.prompt_kinds import combination

Figures = Mapping[str, Entry]

_FEWEST_RUNS = 3
"""For figures that rest on the spread of the runs: two may agree by chance."""


def comparison(runs: Sequence[Location]) -> str:
    """The tables as Markdown.

    Raises:
        DataError: a directory is given twice or holds no run with a finished iteration, or held-out prompts differ.
    """
    if len(set(runs)) < len(runs):
        raise DataError("a run is given twice: name each run once")
    tables = [_base_and_result(run) for run in runs]
    first = tables[0][0]
    for run, (base, _) in zip(runs, tables, strict=True):
        if base.column_names != first.column_names or not base.select(FACTS[1:]).equals(first.select(FACTS[1:])):
            raise DataError(f"{run} has other held-out prompts or figures than {runs[0]}: they cannot be compared")
    prompts = first["prompt"].to_pylist()
    short = len({run.name for run in runs}) == len(runs)
    figures = {
        run.name if short else str(run): _figures(*pair, prompts) for run, pair in zip(runs, tables, strict=True)
    }
    parts = [_all_runs(figures, _errors_over_prompts(tables, prompts))] if len(runs) > 1 else []
    return "\n\n".join([*parts, _each_run(figures), _explanation(len(prompts), len(runs))])


def _base_and_result(run: Location) -> tuple[pa.Table, pa.Table]:
    """The held-out tables of the base policy and of the run's result."""
    shards, result = shards_at(run / "heldout"), result_of(run)
    return shards.read_part(0), shards.read_part(result)


def result_of(run: Location) -> int:
    """The version that is a run's result.

    Raises:
        DataError: the directory holds no run that has finished an iteration.
    """
    with local_file(run / "metrics.jsonl") as file:
        history = read_history(file)
    if len(history.iterations) < 2:
        raise DataError(f"{run} holds no run of jobs/crpo.py that has finished an iteration")
    return result_iteration(history.iterations, (history.run.get("config") or {}).get("keep_best"))


def _figures(base: pa.Table, result: pa.Table, prompts: Sequence[str]) -> Figures:
    """The entries of the result, each with ``base``, the base policy's mean."""
    before = scores_of(base)
    entries = heldout_figures(scores_of(result), before, before, prompts)
    # Not the mean less its change: where an aspect applies to other prompts than before, these do not add up.
    return {name: {**entry, "base": mean_and_error(before[name])[0]} for name, entry in entries.items()}


def _errors_over_prompts(
    tables: Sequence[tuple[pa.Table, pa.Table]], prompts: Sequence[str]
) -> dict[str, float | None]:
    """The error of each figure's change, a prompt's being the mean of its changes in all runs."""
    clusters = [combination(prompt) for prompt in prompts]
    pairs = [(scores_of(base), scores_of(result)) for base, result in tables]
    return {
        name: mean_and_error(row_means(np.stack([result[name] - base[name] for base, result in pairs], 1)), clusters)[1]
        for name in pairs[0][0]
    }


def _all_runs(runs: Mapping[str, Figures], over_prompts: Mapping[str, float | None]) -> str:
    """A row for each figure, with runs as the unit."""
    names = ("figure", "base", "change", "in errors", "error over prompts", "lowest", "highest", "runs to be sure")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, entries in _by_figure(runs).items():
        base, changes = _known(entries, "base"), _known(entries, "delta")
        change, error = mean_and_error(changes)
        cells = [name, format_with_error(mean_and_error(base)[0], None), format_with_error(change, error, sign=True)]
        cells += [in_errors(changes)]
        cells += [format_number(over_prompts[name])]
        cells += [format_signed(min(changes, default=None)), format_signed(max(changes, default=None))]
        cells += [runs_needed(changes)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _each_run(runs: Mapping[str, Figures]) -> str:
    """A row for each run, with errors over its prompts."""
    names = list(next(iter(runs.values())))
    lines = [f"| run | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for run, figures in runs.items():
        changes = [format_with_error(entry["delta"], entry["delta_se"], sign=True) for entry in figures.values()]
        lines.append(f"| {run} | {' | '.join(changes)} |")
    return "\n".join(lines)


def _known(entries: Sequence[Entry], key: str) -> NDArray[np.float64]:
    """The values of the runs that have one."""
    return np.array([value for entry in entries if (value := entry[key]) is not None])


def _by_figure(runs: Mapping[str, Figures]) -> dict[str, list[Entry]]:
    return {name: [figures[name] for figures in runs.values()] for name in next(iter(runs.values()))}


def in_errors(changes: NDArray[np.float64]) -> str:
    """The mean change in standard errors over runs.

    Args:
        changes: of each run, (runs,); at least three.
    """
    change, error = mean_and_error(changes)
    return (
        format_signed(change / error, 1) if len(changes) >= _FEWEST_RUNS and change is not None and error else MISSING
    )


def runs_needed(changes: NDArray[np.float64]) -> str:
    """How many runs a change of this size needs to be ``CLEAR`` standard errors over runs, at least two runs.

    Args:
        changes: of each run, (runs,); at least three.
    """
    if len(changes) < _FEWEST_RUNS or changes.mean() == 0:
        return MISSING
    mean, spread = changes.mean(), changes.std(ddof=1)
    needed = max(2, math.ceil(round((CLEAR * spread / mean) ** 2, 9)))
    return str(needed) if needed <= 999 else "more than 999"


def _explanation(prompts: int, runs: int) -> str:
    text = f"{prompts} held-out prompts. Changes are paired with the base: same prompts, same noise. "
    if runs > 1:
        text += f"In the first table the error is over the {runs} runs: what another run may show on these prompts. "
        text += "That over prompts is of the runs' mean: what they may show on other prompts. Runs to be sure: so many "
        text += f"of this spread make the change {CLEAR:g} errors. "
    text += "Errors over prompts are clustered by their pair of sounds; each run's own error is one. "
    return text + "Lower is better for background."
