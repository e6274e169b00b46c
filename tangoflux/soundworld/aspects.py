"""Aspects: how far what is heard is what the caption asks for, check by check.

A caption becomes checks: each kind that it names is there, nothing else is audible, each has its count, each pair its
order or overlap. Each aspect is the share of its checks that hold, in [0, 1]; NaN where it has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tangoflux.soundworld.activity import Segment, read_segments, together
from tangoflux.soundworld.background import BACKGROUNDS
from tangoflux.soundworld.scenes import SceneContent

ASPECTS = ("recall", "precision", "background", "count", "order", "overlap", "all_kinds", "set_exact", "exact")
"""recall: share of the named kinds that are heard. precision: share of the heard kinds that are named. background:
whether a hiss or a rumble is heard that is not named (the lower, the better). count: share of the named kinds that are
heard whose count is right. order: share of consecutive events, both heard, that are in the order named. overlap: share
of the pairs of named kinds, both heard, that sound together or apart as named. all_kinds: whether all named kinds are
heard. set_exact: whether they and no others are. exact: whether kinds, counts, order and overlap are all right."""


def aspects(wanted: SceneContent, heard: Mapping[str, Sequence[Segment]]) -> dict[str, float]:
    """Every aspect of a scene.

    Args:
        wanted: what the caption says.
        heard: the units of each kind that is heard, see ``activity.segments``.
    """
    named = set(wanted.kinds)
    found = named & set(heard)
    return {
        "recall": _share(kind in heard for kind in named),
        "precision": _share(kind in named for kind in heard),
        "background": _any(kind in heard for kind in BACKGROUNDS if kind not in named),
        "count": _share(len(heard[kind]) == count for kind, count in _counts(wanted).items() if kind in found),
        "order": _share(_in_order(wanted, heard)),
        "overlap": _share(_as_together(wanted, heard)),
        "all_kinds": float(found == named),
        "set_exact": float(set(heard) == named),
        "exact": float(read_segments(heard) == wanted),
    }


def _counts(wanted: SceneContent) -> Counter[str]:
    counts = Counter[str]()
    for event in wanted.events:
        counts[event.kind] += event.count
    return counts


def _in_order(wanted: SceneContent, heard: Mapping[str, Sequence[Segment]]) -> list[bool]:
    """Whether the units of an event are on average before those of the next one."""
    pairs = [] if wanted.overlap else _heard_pairs(wanted, heard)
    return [_centre(heard[first]) < _centre(heard[second]) for first, second in pairs]


def _as_together(wanted: SceneContent, heard: Mapping[str, Sequence[Segment]]) -> list[bool]:
    pairs = _heard_pairs(wanted, heard)
    return [together(heard[first], heard[second]) == wanted.overlap for first, second in pairs]


def _heard_pairs(wanted: SceneContent, heard: Mapping[str, Sequence[Segment]]) -> list[tuple[str, str]]:
    """Consecutive events of two kinds that are both heard; a kind that is named twice has no place of its own."""
    times = Counter(wanted.kinds)
    single = [kind for kind in wanted.kinds if times[kind] == 1]
    return [pair for pair in pairwise(wanted.kinds) if all(kind in heard and kind in single for kind in pair)]


def _centre(units: Sequence[Segment]) -> float:
    return sum(start + end for start, end in units) / (2 * len(units))


def _share(checks: Iterable[bool]) -> float:
    results = list(checks)
    return sum(results) / len(results) if results else math.nan


def _any(checks: Iterable[bool]) -> float:
    results = list(checks)
    return float(any(results)) if results else math.nan
