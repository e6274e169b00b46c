"""Scores of the held-out prompts at every iteration, and their paired change from the base policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.storage.object_store import ObjectStorePath
from actors.storage.shards import shards_at
from jobs.reporting.figures import Entry
from tangoflux.data.prompts import Prompt
from tangoflux.estimates import mean_and_error
from tangoflux.soundworld.prompt_kinds import PromptShape, combination, shapes_of

Scores = Mapping[str, NDArray[np.float64]]
"""The scores of the held-out prompts, in order, by figure (see ``figures.FIGURES``); NaN without a score."""

FACTS = ["iteration", "prompt_id", "prompt", "duration_s"]
"""The columns of a held-out table that are not scores."""


class HeldoutScores:
    """The scores of every held-out prompt at every iteration, as Parquet in ``heldout/``."""

    def __init__(self, directory: Path | ObjectStorePath, prompts: Sequence[Prompt]) -> None:
        self._writer = shards_at(directory)
        self._prompts = prompts

    def write(self, iteration: int, by_prompt: Mapping[str, Mapping[str, float]]) -> None:
        """Stores ``{prompt id: {figure: score}}`` of an iteration; a prompt without a score gets NaN."""
        columns: dict[str, Any] = {
            "iteration": [iteration] * len(self._prompts),
            "prompt_id": [prompt.id for prompt in self._prompts],
            "prompt": [prompt.text for prompt in self._prompts],
            "duration_s": [prompt.duration_s for prompt in self._prompts],
        }
        for name in next(iter(by_prompt.values())):
            columns[name] = [by_prompt.get(prompt.id, {}).get(name, math.nan) for prompt in self._prompts]
        self._writer.write(iteration, pa.table(columns))

    def read(self, iteration: int) -> Scores:
        """The scores of an iteration."""
        return scores_of(self._writer.read_part(iteration))


def scores_of(table: pa.Table) -> Scores:
    """The scores in a held-out table."""
    return {name: table[name].to_numpy() for name in table.column_names if name not in FACTS}


def heldout_figures(scores: Scores, base: Scores, before: Scores, prompts: Sequence[str]) -> dict[str, Entry]:
    """The entry of each figure.

    Changes are of the same prompts, sampled with the same noise.

    Args:
        scores, base, before: of an iteration, of the base policy, and of the policy that the iteration started from.
        prompts: the prompts' texts, for the clusters of the errors.
    """
    clusters = [combination(prompt) for prompt in prompts]
    return {name: _entry(values, clusters, delta=base[name], step=before[name]) for name, values in scores.items()}


def figures_by_shape(scores: Scores, base: Scores, prompts: Sequence[str]) -> dict[str, dict[str, Entry]]:
    """``{shape: {figure: entry}}`` of the sound world's prompts, without ``step``; empty for other prompts."""
    shapes = [shapes_of(prompt) for prompt in prompts]
    rows_of = {shape: [row for row, names in enumerate(shapes) if shape in names] for shape in get_args(PromptShape)}
    return {
        shape: {
            name: _entry(values[rows], [combination(prompts[row]) for row in rows], delta=base[name][rows])
            for name, values in scores.items()
        }
        for shape, rows in rows_of.items()
        if rows
    }


def _entry(values: NDArray[np.float64], clusters: Sequence[str], **earlier: NDArray[np.float64]) -> Entry:
    mean, error = mean_and_error(values, clusters)
    entry: dict[str, float | None] = {"mean": mean, "se": error}
    for name, other in earlier.items():
        entry[name], entry[f"{name}_se"] = mean_and_error(values - other, clusters)
    return entry
