"""Compares finished CRPO runs, of several seeds for example: a Markdown table of what each gained, and of all together.

python jobs/compare.py runs/seed-0 runs/seed-1 runs/seed-2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.storage.metrics import read_history
from actors.storage.object_store import ObjectStorePath, parse_path
from actors.storage.paths import local_file
from actors.storage.shards import shards_at
from jobs.reporting.formatting import format_with_error
from jobs.reporting.heldout import FACTS, Scores, mean_and_error, scores_of
from tangoflux.cli import run_main
from tangoflux.errors import DataError

EPILOG = """\
Each row has the base policy's mean over the held-out prompts and the paired change of the last policy from it, with
standard errors. The last row averages the runs prompt by prompt first: the runs share their prompts and the noise, so
that their changes are not independent, and the error is over prompts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python jobs/compare.py", description=__doc__, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=parse_path, help="run directories or URIs of jobs/crpo.py")
    print(comparison(parser.parse_args(argv).runs))
    return 0


def comparison(runs: Sequence[Path | ObjectStorePath]) -> str:
    """The table as Markdown.

    Raises:
        DataError: a directory holds no run with an iteration, or the runs have other held-out prompts.
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


def _base_and_last(run: Path | ObjectStorePath) -> tuple[pa.Table, pa.Table]:
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


if __name__ == "__main__":
    run_main(main)
