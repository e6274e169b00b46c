"""Scores of the held-out prompts at every iteration, and their paired change from the base policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.storage.object_store import ObjectStorePath
from actors.storage.shards import shards_at
from tangoflux.data.prompts import Prompt

Scores = Mapping[str, NDArray[np.float64]]
"""The scores of the held-out prompts, in order, for each role (reward, judge, exact); NaN without a score."""

Figure = dict[str, float | None]

FACTS = ["iteration", "prompt_id", "prompt", "duration_s"]
"""The columns of a held-out table that are not scores."""


class HeldoutScores:
    """The scores of every held-out prompt at every iteration, as Parquet in ``heldout/``."""

    def __init__(self, directory: Path | ObjectStorePath, prompts: Sequence[Prompt]) -> None:
        self._writer = shards_at(directory)
        self._prompts = prompts

    def write(self, iteration: int, by_prompt: Mapping[str, Mapping[str, float]]) -> None:
        """Stores ``{prompt id: {role: score}}`` of an iteration; a prompt without a score gets NaN."""
        columns: dict[str, Any] = {
            "iteration": [iteration] * len(self._prompts),
            "prompt_id": [prompt.id for prompt in self._prompts],
            "prompt": [prompt.text for prompt in self._prompts],
            "duration_s": [prompt.duration_s for prompt in self._prompts],
        }
        for role in next(iter(by_prompt.values())):
            columns[role] = [by_prompt.get(prompt.id, {}).get(role, math.nan) for prompt in self._prompts]
        self._writer.write(iteration, pa.table(columns))

    def read(self, iteration: int) -> Scores:
        """The scores of an iteration."""
        return scores_of(self._writer.read_part(iteration))


def scores_of(table: pa.Table) -> Scores:
    """The scores in a held-out table."""
    return {role: table[role].to_numpy() for role in table.column_names if role not in FACTS}


def heldout_figures(scores: Scores, base: Scores) -> dict[str, Figure]:
    """``{role: {mean, se, delta, delta_se}}``; None if too few prompts have a score.

    ``delta`` is the mean change from ``base`` of the same prompts, sampled with the same noise.
    """
    return {
        role: {
            **dict(zip(("mean", "se"), mean_and_error(values), strict=True)),
            **dict(zip(("delta", "delta_se"), mean_and_error(values - base[role]), strict=True)),
        }
        for role, values in scores.items()
    }


def mean_and_error(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Mean and standard error of the finite values."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return None, None
    error = float(finite.std(ddof=1) / len(finite) ** 0.5) if len(finite) > 1 else None
    return float(finite.mean()), error
