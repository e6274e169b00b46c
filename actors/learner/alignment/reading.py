"""The shards of an alignment: every rank reads, verifies and checks them itself.

Ray Data is not used: its Parquet reader takes seconds to start in every iteration, and would wait forever on a machine
whose processors the ranks occupy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.learner.alignment.groups import (
    PAIR_LATENTS,
    PAIR_REWARD_COLUMNS,
    PROMPT_COLUMNS,
    SAMPLING_COLUMNS,
    GroupData,
    concat_groups,
    pair_groups,
)
from actors.learner.objectives import Objective
from actors.learner.settings import AlignmentSettings
from actors.storage.shards import Shards
from tangoflux.data.preferences import PairCounts, RankedGroups, describe_counts, rank_groups
from tangoflux.data.records import SORT_KEYS, is_latents, latents_array
from tangoflux.errors import DataError

REWARD_COLUMNS = (*SORT_KEYS, "reward", "failure")
"""The columns of rollouts that rank the samples."""

ROLLOUT_COLUMNS = (*PROMPT_COLUMNS, "latents")
"""The other columns of rollouts that the learner reads."""

PAIR_COLUMNS = (*PROMPT_COLUMNS, *PAIR_REWARD_COLUMNS, *PAIR_LATENTS)
"""The columns of pairs that the learner reads."""

MAY_BE_NULL = ("reward", "failure", *PAIR_REWARD_COLUMNS, *SAMPLING_COLUMNS)
"""Columns in which a null says something."""


def read_groups(shards: Shards, settings: AlignmentSettings) -> GroupData:
    """The groups of shards of preference pairs, each of two samples, or of scored rollouts.

    Raises:
        DataError: a shard was changed after it was written, or cannot be trained on.
        ConfigError: the objective wants more samples than a group has.
    """
    if holds_rollouts(shards):
        return _rollout_groups(shards, settings)
    settings.objective.check_group_size(2)
    return pair_groups(read_pairs(shards), settings.objective.ranks(2))


def holds_rollouts(shards: Shards) -> bool:
    """Whether these are shards of rollouts, not of pairs, by the columns of the first."""
    _, first = next(shards.tables(REWARD_COLUMNS))
    return "reward" in first.column_names


def have_rewards(shards: Shards) -> bool:
    """Whether all pairs have rewards; those that people chose have none."""
    tables = (table for _, table in shards.tables(PAIR_REWARD_COLUMNS))
    return not any(column.null_count for table in tables for column in table.columns)


def check_not_empty(shards: Shards) -> None:
    """Checks that there are pairs or rollouts, by the manifest alone.

    Raises:
        DataError: there are none.
    """
    if not any(shard.rows for shard in shards.shards().values()):
        raise DataError(f"{shards.directory} holds neither preference pairs nor rollouts: there is nothing to train on")


def count_groups(shards: Shards, min_margin: float = 0.0) -> tuple[int, int]:
    """Counts the groups of rollouts from which something can be learned, and the samples of each.

    Raises:
        DataError: there is none, or groups have different numbers of samples.
    """
    ranked: list[RankedGroups] = []
    for part, table in shards.tables(REWARD_COLUMNS):
        _check_columns(table, REWARD_COLUMNS, f"{shards.directory} shard {part}")
        ranked.append(rank_groups(table, min_margin))
    counts = sum((groups.counts for groups in ranked), PairCounts())
    if not counts.made:
        raise DataError(
            f"{shards.directory}: {describe_counts(counts, min_margin)}: there is nothing to train on; jobs/score.py "
            "gives rollouts their rewards"
        )
    return counts.made, _one_size([rewards for groups in ranked for rewards in groups.rewards], str(shards.directory))


def check_channels(shards: Shards, expected: int) -> None:
    """Checks the latents of the first shard.

    Raises:
        DataError: they have another number of channels than expected, which is the policy's.
    """
    column = "latents" if holds_rollouts(shards) else PAIR_LATENTS[0]
    part, first = next(shards.tables([column]))
    source = f"{shards.directory} shard {part}"
    _check_columns(first, [column], source)
    channels = _checked_latents(first, column, source).shape[2]
    if channels != expected:
        raise DataError(
            f"{shards.directory}: the latents have {channels} channels, the policy {expected}: did another policy make "
            "them?"
        )


def fingerprint(shards: Shards) -> str:
    """Tells these rows from others; a checkpoint counts for the rows that it was made on only."""
    hashes = [shard.sha256 for shard in shards.shards().values()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def read_pairs(shards: Shards) -> list[pa.Table]:
    """The learner's columns of all shards of pairs in their order, each in one piece.

    Raises:
        DataError: a shard was changed after it was written, misses columns, or contains values that are not finite.
    """
    tables = shards.tables(verify=True)
    return [_checked_pairs(table, f"{shards.directory} shard {part}") for part, table in tables if len(table)]


def _rollout_groups(shards: Shards, settings: AlignmentSettings) -> GroupData:
    parts: list[GroupData] = []
    for part, table in shards.tables((*REWARD_COLUMNS, *ROLLOUT_COLUMNS), verify=True):
        source = f"{shards.directory} shard {part}"
        _check_columns(table, (*REWARD_COLUMNS, *ROLLOUT_COLUMNS), source)
        groups = rank_groups(table, settings.min_margin)
        if groups.rows:
            parts.append(_groups_of(table, groups, settings.objective, source))
    if not parts:
        raise DataError(f"{shards.directory} holds no group of samples of different rewards")
    _one_size([rewards for part in parts for rewards in part.rewards], str(shards.directory))
    return concat_groups(parts)


def _groups_of(table: pa.Table, groups: RankedGroups, objective: Objective, source: str) -> GroupData:
    """The groups of a shard of rollouts, with the latents of those samples only that are trained on or measured."""
    size = _one_size(groups.rewards, source)
    objective.check_group_size(size)
    rows, ranks = np.stack(groups.rows), objective.ranks(size)
    stored = _checked_latents(table, "latents", source)
    columns = {name: table[name].take(pa.array(rows[:, 0])).to_pylist() for name in PROMPT_COLUMNS}
    _check_frames(columns["num_frames"], stored, "latents", source)
    latents = {rank: list(stored[rows[:, rank]]) for rank in {*ranks, 0, size - 1}}
    return GroupData(columns, np.stack(groups.rewards), latents, ranks)


def _one_size(groups: Sequence[NDArray[np.float64]], source: str) -> int:
    """Samples of each of the groups."""
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise DataError(f"{source} has groups of {sizes[0]} and of {sizes[-1]} samples; all must have equally many")
    return sizes[0]


def _checked_pairs(table: pa.Table, source: str) -> pa.Table:
    """The learner's columns of a shard of pairs, each in one piece."""
    _check_columns(table, PAIR_COLUMNS, source)
    table = table.select(list(PAIR_COLUMNS)).combine_chunks()
    for name in PAIR_LATENTS:
        _check_frames(table["num_frames"].to_numpy(), _checked_latents(table, name, source), name, source)
    return table


def _check_columns(table: pa.Table, names: Sequence[str], source: str) -> None:
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(f"{source} has no columns {', '.join(missing)}")
    empty = [name for name in names if table[name].null_count and name not in MAY_BE_NULL]
    if empty:
        raise DataError(f"{source} has empty fields in {', '.join(empty)}")


def _checked_latents(table: pa.Table, name: str, source: str) -> NDArray[Any]:
    """A latents column as an array (rows, max_frames, channels) of finite values."""
    kind = table.schema.field(name).type
    if not is_latents(kind):
        raise DataError(f"{source}: {name} is {kind}, expected tangoflux.data.records' type")
    latents = latents_array(table[name])
    if not np.isfinite(latents).all():
        raise DataError(f"{source}: {name} holds values that are not finite")
    return latents


def _check_frames(num_frames: Sequence[int], latents: NDArray[Any], name: str, source: str) -> None:
    if min(num_frames) < 1 or max(num_frames) > latents.shape[1]:
        raise DataError(f"{source}: num_frames must be from 1 to the {latents.shape[1]} frames of {name}")
