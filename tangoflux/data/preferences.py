"""From groups of scored samples to preference pairs: the highest reward of a prompt against its lowest (section 3)."""

# pyarrow has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tangoflux.data.records import SORT_KEYS, latents_shape, preference_schema
from tangoflux.errors import DataError, RewardError, WeightsChangedError


@dataclass(frozen=True)
class PairCounts:
    """How many groups made a pair and how many did not; counts of several tables are added with ``+``.

    Attributes:
        made: groups that made a pair.
        tied: groups whose highest and lowest reward differ by no more than the margin.
        dropped: groups with a sample that has no reward.
        reasons: number of dropped groups by the first failure in each.
    """

    made: int = 0
    tied: int = 0
    dropped: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def groups(self) -> int:
        """Number of all groups."""
        return self.made + self.tied + self.dropped

    def __add__(self, other: PairCounts) -> PairCounts:
        reasons = dict(sorted((Counter(self.reasons) + Counter(other.reasons)).items()))
        return PairCounts(self.made + other.made, self.tied + other.tied, self.dropped + other.dropped, reasons)


@dataclass(frozen=True)
class RankedGroups:
    """The groups of a table of rollouts from which something can be learned, in canonical order.

    Attributes:
        rows: for each group the rows of its samples in the table, from the highest reward to the lowest.
        rewards: for each group the rewards in this order.
        counts: of all groups.
    """

    rows: list[NDArray[np.int64]]
    rewards: list[NDArray[np.float64]]
    counts: PairCounts


def rank_groups(rollouts: pa.Table, min_margin: float = 0.0) -> RankedGroups:
    """Ranks the samples of each group by reward; every group must be complete.

    Of equal rewards that of the lowest ``sample_index`` is the best, or the worst. A group is left out if its highest
    reward exceeds the lowest by at most ``min_margin``, or if a sample has no reward: a failure is never a score.

    Args:
        rollouts: the columns ``SORT_KEYS``, ``reward`` and ``failure`` of a table of rollouts, in any order.
        min_margin: >= 0.
    """
    order = pc.sort_indices(rollouts, [(name, "ascending") for name in SORT_KEYS])
    ordered = rollouts.select([*SORT_KEYS, "reward", "failure"]).take(order)
    rewards, places = pc.fill_null(ordered["reward"], float("nan")).to_numpy(), order.to_numpy().astype(np.int64)
    rows: list[NDArray[np.int64]] = []
    ranked: list[NDArray[np.float64]] = []
    tied, reasons = 0, Counter[str]()
    for first, last in group_bounds(ordered):
        group = rewards[first:last]
        if not np.isfinite(group).all():
            reasons[_reason(ordered, first + int(np.argmin(np.isfinite(group))))] += 1
        elif group.max() - group.min() <= min_margin:
            tied += 1
        else:
            ranking = _ranking(group)
            rows.append(places[first:last][ranking])
            ranked.append(group[ranking])
    return RankedGroups(rows, ranked, PairCounts(len(rows), tied, sum(reasons.values()), dict(sorted(reasons.items()))))


def make_pairs(rollouts: pa.Table, min_margin: float = 0.0) -> tuple[pa.Table, PairCounts]:
    """Pairs of a table of rollouts: the best and the worst sample of each of its ``rank_groups``.

    Args:
        rollouts: a table of ``rollout_schema``, in any order.
        min_margin: the rewards must differ by more than this; >= 0.

    Returns:
        a table of ``preference_schema`` in canonical order, and the counts of groups.
    """
    ranked = rank_groups(rollouts, min_margin)
    chosen, rejected = (_indices([int(rows[place]) for rows in ranked.rows]) for place in (0, -1))
    return _pair_table(rollouts, chosen, rejected), ranked.counts


def describe_counts(counts: PairCounts, min_margin: float) -> str:
    """How many pairs were made, and why not more: ``9 pairs of 12 prompts; 2 tied (equal rewards)``."""
    tied = f"margins up to {min_margin:g}" if min_margin else "equal rewards"
    reasons = "; ".join(f"{count} x {reason}" for reason, count in Counter(counts.reasons).most_common(3))
    without = [(counts.tied, "tied", tied), (counts.dropped, "dropped", reasons)]
    words = "".join(f"; {count} {what} ({why})" for count, what, why in without if count)
    return f"{counts.made} {'pair' if counts.made == 1 else 'pairs'} of {counts.groups} prompts{words}"


def check_any_pairs(counts: PairCounts, min_margin: float) -> None:
    """Checks that there is something to train on.

    Raises:
        DataError: no group made a pair; the message says why.
    """
    if not counts.made:
        raise DataError(
            f"{describe_counts(counts, min_margin)}: there is nothing to train on; start another run with another "
            "--reward, more --num-samples or a lower --min-margin"
        )


def check_dropped_share(counts: PairCounts, max_dropped_share: float, planned_groups: int | None = None) -> None:
    """Checks that the reward model does not fail too often.

    Args:
        counts: the groups so far.
        max_dropped_share: largest allowed share of dropped groups, in [0, 1].
        planned_groups: final number of groups, default: those counted. Given it, the check can run while groups arrive:
            it fails as soon as the final share is bound to be too large.

    Raises:
        RewardError: the share is larger; the message lists the reasons.
    """
    groups = planned_groups or counts.groups
    if counts.dropped <= max_dropped_share * groups:
        return
    reasons = "; ".join(f"{count} x {reason}" for reason, count in Counter(counts.reasons).most_common(3))
    raise RewardError(
        f"the reward failed for {counts.dropped} of {groups} groups, more than the allowed share of "
        f"{max_dropped_share:g} (rewards.max_dropped_share): {reasons}"
    )


def check_same_weights(checkpoints: Collection[str]) -> None:
    """Checks that all rollouts of a data set were scored by the same weights.

    Raises:
        WeightsChangedError: they were not; the message names two.
    """
    if len(checkpoints) > 1:
        first, second = sorted(checkpoints)[:2]
        raise WeightsChangedError(
            f"a part of the rollouts was scored by the weights {first!r}, another one by {second!r}: score all of them "
            "again, into another directory"
        )


def group_bounds(ordered: pa.Table) -> Iterator[tuple[int, int]]:
    """The [first, last) rows of every group of a table that is sorted by iteration and prompt_id."""
    if len(ordered) == 0:
        return
    iteration = ordered["iteration"].to_numpy()
    prompt_id = ordered["prompt_id"].to_numpy()
    changes = (iteration[1:] != iteration[:-1]) | (prompt_id[1:] != prompt_id[:-1])
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(ordered)]
    yield from itertools.pairwise(starts)


def _ranking(rewards: NDArray[np.float64]) -> NDArray[np.int64]:
    """The order from the highest to the lowest; of equal ones the first is the best, and the first the worst."""
    order, worst = np.argsort(-rewards, kind="stable"), rewards.argmin()
    return np.append(order[order != worst], worst)


def _indices(rows: list[int]) -> pa.Array:
    return pa.array(rows, pa.int64())


def _reason(rollouts: pa.Table, row: int) -> str:
    return rollouts["failure"][row].as_py() or "the reward is not a finite number"


def _pair_table(rollouts: pa.Table, chosen: pa.Array, rejected: pa.Array) -> pa.Table:
    best, worst = rollouts.take(chosen), rollouts.take(rejected)
    schema = preference_schema(*latents_shape(rollouts.schema.field("latents")))
    columns = {name: best[name] for name in schema.names if name in rollouts.column_names}
    for name, source in (("index", "sample_index"), ("reward", "reward"), ("seed", "seed"), ("latents", "latents")):
        columns[f"chosen_{name}"] = best[source]
        columns[f"rejected_{name}"] = worst[source]
    later = pc.greater(best["created_at"], worst["created_at"])
    columns["created_at"] = pc.if_else(later, best["created_at"], worst["created_at"])
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
