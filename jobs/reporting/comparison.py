"""The comparison of finished CRPO runs: a Markdown table of what each gained, and of all together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from actors.storage.metrics import read_history
from actors.storage.object_store import Location
from actors.storage.paths import local_file
from actors.storage.shards import shards_at
from jobs.reporting.formatting import format_with_error
from jobs.reporting.heldout import FACTS, Scores, mean_and_error, scores_of
from tangoflux.errors import DataError


def comparison(runs: Sequence[Location]) -> str:
    """The table as Markdown.

    Raises:
        DataError: a directory holds no run with a finished iteration, or the runs' held-out prompts differ.
    """
    tables = [_base_and_last(run) for run in runs]
    first = tables[0][0]
    for run, (base, _) in zip(runs, tables, strict=True):
        if base.column_names != first.column_names or not base.select(FACTS[1:]).equals(first.select(FACTS[1:])):
            raise DataError(f"{run} has other held-out prompts or figures than {runs[0]}: they cannot be compared")
    scores = [(scores_of(base), scores_of(last)) for base, last in tables]
    lines = [_header(scores[0][0]), *(_row(run.name, *pair) for run, pair in zip(runs, scores, strict=True))]
    if len(runs) > 1:
        lines.append(_row("all", *(_average([pair[side] for pair in scores]) for side in (0, 1))))
    return "\n".join(lines) + f"\n\n{len(first)} held-out prompts."


def _base_and_last(run: Location) -> tuple[pa.Table, pa.Table]:
    """The held-out tables of the base policy and of the last one."""
    with local_file(run / "metrics.jsonl") as file:
        iterations = read_history(file).iterations
    if len(iterations) < 2:
        raise DataError(f"{run} holds no run of jobs/crpo.py that has finished an iteration")
    shards = shards_at(run / "heldout")
    return shards.read_part(0), shards.read_part(iterations[-1]["iteration"])


def _average(scores: Sequence[Scores]) -> Scores:
    return {role: np.mean([run[role] for run in scores], axis=0) for role in scores[0]}


def _header(roles: Scores) -> str:
    names = [f"{role}, base | change" for role in roles]
    return f"| run | {' | '.join(names)} |\n|---{'|---' * 2 * len(roles)}|"


def _row(name: str, base: Scores, last: Scores) -> str:
    cells = [name]
    for role, values in base.items():
        cells.append(format_with_error(*mean_and_error(values)))
        cells.append(format_with_error(*mean_and_error(last[role] - values), sign=True))
    return f"| {' | '.join(cells)} |"
